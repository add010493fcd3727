"""Numeric kernels behind one interface; `reference` states what each must compute."""
