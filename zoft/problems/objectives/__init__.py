"""Objectives that have no gradient: metrics of what a model chooses or writes, and rewards of what it writes.

An objective is a :data:`zoft.problems.problem.Losses`: what forward passes alone need to know.
"""
