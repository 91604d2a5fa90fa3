"""x"""
command=None
