/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads with acquire and stores with release semantics on a 32-bit word of a buffer: what rings shared with the kernel
 * need, and Python cannot say. Nothing else is here, so that all logic is in one language.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>

static int word_of(PyObject *object, Py_buffer *view, int flags)
{
	if (PyObject_GetBuffer(object, view, flags) != 0)
		return -1;
	if (view->len == sizeof(uint32_t) && (uintptr_t)view->buf % sizeof(uint32_t) == 0)
		return 0;
	PyBuffer_Release(view);
	PyErr_SetString(PyExc_ValueError, "expected a buffer of 4 aligned bytes");
	return -1;
}

static PyObject *load(PyObject *Py_UNUSED(module), PyObject *object)
{
	Py_buffer view;
	uint32_t value;

	if (word_of(object, &view, PyBUF_SIMPLE) != 0)
		return NULL;
	value = __atomic_load_n((uint32_t *)view.buf, __ATOMIC_ACQUIRE);
	PyBuffer_Release(&view);
	return PyLong_FromUnsignedLong(value);
}

static PyObject *store(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
	Py_buffer view;
	unsigned long value;

	if (count != 2) {
		PyErr_SetString(PyExc_TypeError, "store() takes a buffer and a number");
		return NULL;
	}
	value = PyLong_AsUnsignedLong(args[1]);
	if (value == (unsigned long)-1 && PyErr_Occurred())
		return NULL;
	if (value > UINT32_MAX) {
		PyErr_SetString(PyExc_OverflowError, "the number does not fit into 32 bits");
		return NULL;
	}
	if (word_of(args[0], &view, PyBUF_WRITABLE) != 0)
		return NULL;
	__atomic_store_n((uint32_t *)view.buf, (uint32_t)value, __ATOMIC_RELEASE);
	PyBuffer_Release(&view);
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{"load", load, METH_O, "Return the word of a buffer of 4 bytes, with acquire semantics."},
	{"store", (PyCFunction)(void (*)(void))store, METH_FASTCALL,
	 "Write the word of a buffer of 4 bytes, with release semantics."},
	{NULL, NULL, 0, NULL},
};

static struct PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	"_barriers",
	"Acquire and release on a word of a buffer.",
	0,
	methods,
	slots,
	NULL,
	NULL,
	NULL,
};

PyMODINIT_FUNC PyInit__barriers(void)
{
	return PyModuleDef_Init(&definition);
}
