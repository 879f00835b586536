"""A function in Python with NumPy: solves the equations that the body has, one row of numbers a line, the right side last."""

import numpy


def solve(rows):
    matrix = numpy.array(rows, dtype=float)
    return numpy.linalg.solve(matrix[:, :-1], matrix[:, -1])


def warm():
    solve([[2, 1, 3], [1, 3, 5]])


def handle(method, path, body):
    rows = [line.split() for line in body.decode().splitlines() if line.strip()] or [[2, 1, 3], [1, 3, 5]]
    return " ".join(f"{value:.6g}" for value in solve(rows)) + "\n"
