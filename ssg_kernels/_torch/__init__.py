"""Registration with torch: schemas, kernels in Python, derivatives, tracing, vmap and sharding of the operators.

Importing `ssg_kernels` imports the modules of this folder, and importing one of them registers what it defines.
"""
