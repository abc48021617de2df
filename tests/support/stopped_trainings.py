"""Stop a training at a batch, as kill -9 does."""

import contextlib
import itertools

import pytest

from model.loop import train_step


class Killed(BaseException):
    pass


@contextlib.contextmanager
def at_batch(number):
    """Within it, training ends in front of a batch, counted over all stages."""
    train = train_step.TrainStep.__call__
    numbers = itertools.count(1)

    def stop(self, *arguments):
        if next(numbers) == number:
            raise Killed
        return train(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train_step.TrainStep, "__call__", stop)
        yield
