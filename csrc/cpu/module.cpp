// Makes the library a Python module.
#include <Python.h>

// Lets Python's import machinery load the library; operators register when it loads.
extern "C" PyObject* PyInit__C() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&definition);
}
