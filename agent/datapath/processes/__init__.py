"""Gives AF_XDP sockets to the processes that are functions, and takes the functions out of the path without one."""
