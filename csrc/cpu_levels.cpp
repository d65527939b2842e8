// A Python module that tells, without running any code of a level, which levels this CPU can run, best first, and what
// compiler built the libraries.
#include <Python.h>

namespace {

PyObject* levels(PyObject*, PyObject*) {
#if defined(__x86_64__)
  // __builtin_cpu_supports also asks whether the system saves the registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) return Py_BuildValue("(sss)", "avx512", "avx2", "sse2");
  if (avx2) return Py_BuildValue("(ss)", "avx2", "sse2");
  return Py_BuildValue("(s)", "sse2");
#elif defined(__aarch64__)
  return Py_BuildValue("(s)", "neon");
#else
  return Py_BuildValue("(s)", "portable");
#endif
}

PyObject* compiler(PyObject*, PyObject*) {
#if defined(__clang__)
  return PyUnicode_FromString("clang " __clang_version__);
#else
  return PyUnicode_FromString("GCC " __VERSION__);
#endif
}

PyMethodDef methods[] = {{"levels", levels, METH_NOARGS, "levels() -> names of levels, best first"},
                         {"compiler", compiler, METH_NOARGS, "compiler() -> name and version"},
                         {nullptr, nullptr, 0, nullptr}};

}  // namespace

PyMODINIT_FUNC PyInit__cpu() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_cpu", nullptr, -1, methods};
  return PyModule_Create(&definition);
}
