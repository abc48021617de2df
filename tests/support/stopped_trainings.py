"""Stop a training at a batch, as kill -9 does."""

import contextlib
import itertools

import pytest

from model.loop import train_step
from model.training import head_solver


class Killed(BaseException):
    pass


@contextlib.contextmanager
def at_batch(number):
    """Within it, training ends in front of a batch, counted over all stages.

    A head that is solved counts one for each L2 penalty, in front of its validation.
    """
    train = train_step.TrainStep.__call__
    validate = head_solver.HeadSolver.validate
    numbers = itertools.count(1)

    def stop(self, *arguments):
        if next(numbers) == number:
            raise Killed
        return train(self, *arguments)

    def stop_validation(self):
        if next(numbers) == number:
            raise Killed
        return validate(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train_step.TrainStep, "__call__", stop)
        patch.setattr(head_solver.HeadSolver, "validate", stop_validation)
        yield
