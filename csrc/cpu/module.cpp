// Makes a library a Python module: _C, or what DMGAN_MODULE says.
#include <Python.h>

#ifndef DMGAN_MODULE
#define DMGAN_MODULE _C
#endif
#define DMGAN_JOIN(a, b) a##b
#define DMGAN_INIT(name) DMGAN_JOIN(PyInit_, name)
#define DMGAN_TEXT(name) #name
#define DMGAN_NAME(name) DMGAN_TEXT(name)

// Lets Python's import machinery load the library; operators register when it loads.
extern "C" PyObject* DMGAN_INIT(DMGAN_MODULE)() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, DMGAN_NAME(DMGAN_MODULE), nullptr, -1, nullptr};
  return PyModule_Create(&definition);
}
