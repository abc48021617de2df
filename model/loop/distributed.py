"""Several devices and several processes that train one network together.

Each has all weights and computes the gradients of its share of every batch; their sum
moves the weights, the same everywhere. Devices of a process are given their shares in
one graph; processes find each other by TF_CONFIG, as Kubeflow, Vertex AI and SageMaker
set it, and add up by tf.distribute's collective operations.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipeline.system.errors import DataError


class WorkerLost(DataError):
    """Another process of the training has gone."""


# What collective operations raise when another process does not answer.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Workers:
    """The processes of a training, and this process' devices.

    Attributes:
        rank: of this process, from 0; the first is the chief, which alone writes.
        size: number of processes.
        devices: of this process that compute gradients.
    """

    def __init__(self, devices: Sequence[str] = ("",)) -> None:
        """One process.

        Args:
            devices: names, as "/GPU:1"; "" leaves it to TensorFlow.
        """
        self.rank, self.size = 0, 1
        self.devices = tuple(devices)
        self._strategy: Any = None

    @classmethod
    def from_environment(cls, devices: Sequence[str] = ("",)) -> "Workers":
        """As TF_CONFIG says; to be called before TensorFlow computes anything.

        Raises:
            DataError: TF_CONFIG cannot be understood.
        """
        found = cls(devices)
        found.rank, found.size = place(os.environ.get("TF_CONFIG", ""))
        if found.size > 1:
            found._strategy = tf.distribute.MultiWorkerMirroredStrategy()
        return found

    def use(self, gpus: Sequence[str]) -> None:
        """Computes on several GPUs, if there are several.

        Args:
            gpus: as TensorFlow lists them, which is those of all processes.

        Raises:
            DataError: there are several, and several processes.
        """
        if self._strategy is not None:
            gpus = [
                gpu for gpu in gpus if gpu in self._strategy.extended.worker_devices
            ]
        if len(gpus) < 2:
            return
        if self.size > 1:
            raise DataError(
                f"TF_CONFIG: {self.size} processes, and {len(gpus)} GPUs in this one; "
                "expected one in each: start a process for each GPU, which "
                "CUDA_VISIBLE_DEVICES shows it alone"
            )
        self.devices = tuple(gpus)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    @property
    def num_replicas(self) -> int:
        """Of all processes together, if they are alike."""
        return self.size * len(self.devices)

    def share(self, count: int) -> slice:
        """Which of a batch's examples are this process'."""
        return slice(
            count * self.rank // self.size, count * (self.rank + 1) // self.size
        )

    def compute(
        self,
        function: Callable[[Any, Any, Any], Sequence[Any]],
        inputs: Any,
        labels: Any,
    ) -> list[Any]:
        """The sum of what a function makes of the parts of a batch, over all replicas.

        Args:
            function: (inputs, labels, number of the replica) -> tensors to add up.
            inputs: of this process' share.
            labels: likewise.
        """
        number = len(self.devices)
        first = self.rank * number
        if number == 1:
            return self.add_up(function(inputs, labels, first))
        count = tf.shape(labels)[0]
        parts = []
        for place, device in enumerate(self.devices):
            some = slice(count * place // number, count * (place + 1) // number)
            with tf.device(device):
                parts.append(function(inputs[some], labels[some], first + place))
        with tf.device(self.devices[0]):
            return self.add_up([tf.add_n(same) for same in zip(*parts, strict=True)])

    def add_up(self, tensors: Sequence[Any]) -> list[Any]:
        """The sum over all processes of each tensor."""
        if self._strategy is None or not tensors:
            return list(tensors)

        def reduce(*tensors: Any) -> Any:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors))

        # The strategy asks where the tensors are, and in a graph they do not know.
        with tf.device(self._strategy.extended.worker_devices[0]):
            here = tuple(map(tf.identity, tensors))
        return list(self._strategy.run(reduce, args=here))


def place(tf_config: str) -> tuple[int, int]:
    """Rank of this process and number of processes.

    Args:
        tf_config: {"cluster": {"chief": [...], "worker": [...]}, "task": {"type": ...,
            "index": ...}} as JSON; "" for one process.

    Raises:
        DataError: it is not like that.
    """
    if not tf_config:
        return 0, 1
    try:
        found = json.loads(tf_config)
        cluster = found.get("cluster", {})
        names = [
            (kind, number)
            for kind in ("chief", "worker")
            for number in range(len(cluster.get(kind, ())))
        ]
        if not names:
            return 0, 1
        task = (found["task"]["type"], int(found["task"]["index"]))
        return names.index(task), len(names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"TF_CONFIG: expected a cluster of chief and worker and this process' task "
            f"among them, found {tf_config[:200]} ({error!r:.100})"
        ) from error


ALONE = Workers()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What a training computes with.

    Attributes:
        precision: of the network's layers.
        cache_dir: folder of all feature caches.
        together: processes and devices.
    """

    precision: str
    cache_dir: Path
    together: Workers = ALONE
