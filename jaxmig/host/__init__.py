"""The computer that jaxmig runs on: files, terminal, node lists, base classes of errors.

Every other folder may import this one; it imports none, and knows nothing of machines,
kernels or results.
"""
