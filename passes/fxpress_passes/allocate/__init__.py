"""Candidate choices with predicted loss and measured cost ==> one choice each, under several budgets at once.

What is here is shared by the families of passes and knows none of them, and no graph: names and numbers in, names out.
"""

from .answer import Answer
from .pareto import Front, front
from .picture import picture
from .problem import Choice, Pair, Problem, Unit
from .remeasure import Measured, Remeasured, remeasured
from .solver import Solver
from .solvers import SOLVERS, Bisection, Brute, Dynamic, Greedy, Milp
from .ties import tie

__all__ = [
    "SOLVERS",
    "Answer",
    "Bisection",
    "Brute",
    "Choice",
    "Dynamic",
    "Front",
    "Greedy",
    "Measured",
    "Milp",
    "Pair",
    "Problem",
    "Remeasured",
    "Solver",
    "Unit",
    "front",
    "picture",
    "remeasured",
    "tie",
]
