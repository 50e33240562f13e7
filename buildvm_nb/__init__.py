"""When, on which CPU and on which kernel does this software stop building?"""
