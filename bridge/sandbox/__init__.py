"""A local REST email API that behaves like a real one."""
