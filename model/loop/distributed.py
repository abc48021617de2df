"""Share each training batch among the devices of several processes.

Every process has all weights and computes the gradients of its share of every batch.
Each applies the sum of all gradients, so the weights stay equal everywhere. Devices of
one process compute their shares in one graph. Processes find each other by TF_CONFIG,
as Kubeflow, Vertex AI and SageMaker set it, and sum with the collective operations of
tf.distribute.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.system import command_line
from pipeline.system.errors import DataError

# What collective operations raise when another process does not answer.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
# A function (inputs, labels, number of the replica) -> tensors.
ReplicaFunction = Callable[..., Sequence[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """The processes of a training, and the devices of this process."""

    rank: int = 0  # of this process; process 0 alone writes the run folder
    size: int = 1  # number of processes
    # Devices of this process that compute gradients, such as "/GPU:1"; "" leaves the
    # choice to TensorFlow.
    devices: tuple[str, ...] = ("",)
    strategy: Any = None  # of tf.distribute, which connects several processes

    @classmethod
    def from_environment(cls) -> "ProcessGroup":
        """Connect the processes of TF_CONFIG, before TensorFlow computes anything."""
        rank, size = rank_and_size(os.environ.get("TF_CONFIG", ""))
        if size > 1:  # hides a warning about sums outside of graphs, which are rare
            tf.get_logger().setLevel("ERROR")
            command_line.log(f"waiting until {size} processes have started (TF_CONFIG)")
        strategy = tf.distribute.MultiWorkerMirroredStrategy() if size > 1 else None
        return cls(rank=rank, size=size, strategy=strategy)

    def on_gpus(self, gpus: Sequence[str]) -> "ProcessGroup":
        """Return a group that computes on those of `gpus` that this process has.

        Raises DataError for several processes with several GPUs each.
        """
        if self.strategy is not None:
            local = self.strategy.extended.worker_devices
            gpus = [gpu for gpu in gpus if gpu in local]
        if len(gpus) < 2:
            return self
        if self.size > 1:
            raise DataError(
                f"TF_CONFIG: {self.size} processes, and {len(gpus)} GPUs in this one. "
                "Expected one GPU in each process. Start one process per GPU and give "
                "it this GPU alone by CUDA_VISIBLE_DEVICES."
            )
        return dataclasses.replace(self, devices=tuple(gpus))

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    @property
    def num_replicas(self) -> int:
        """Number of devices in all processes; each process has the same number."""
        return self.size * len(self.devices)

    def share(self, count: int) -> slice:
        """Return the slice of a batch of `count` photos that is this process's."""
        first, last = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    def sum_over_replicas(
        self, function: ReplicaFunction, inputs: Any, labels: Any
    ) -> Sequence[Any]:
        """Run a function on all replicas, and return the sums of its results.

        Inputs and labels are this process's share of a batch.
        """
        if self.num_replicas == 1:
            return function(inputs, labels, 0)
        num, count = len(self.devices), tf.shape(labels)[0]
        results = []
        for index, device in enumerate(self.devices):
            part = slice(count * index // num, count * (index + 1) // num)
            with tf.device(device):
                replica = self.rank * num + index
                tensors = function(inputs[part], labels[part], replica)
                # A small batch may leave nothing for a replica, whose mean is NaN.
                has_photos = tf.shape(labels[part])[0] > 0
                results.append(
                    [tf.where(has_photos, t, tf.zeros_like(t)) for t in tensors]
                )
        with tf.device(self.devices[0]):
            return self._sum_over_processes(
                [tf.add_n(tensors) for tensors in zip(*results, strict=True)]
            )

    @contextlib.contextmanager
    def averaging(self, variables: Sequence[Any], labels: Any) -> Iterator[None]:
        """Replace variables that the block changes by their mean over the processes.

        Each process is weighted by the number of its labels.
        """
        before = [tf.identity(variable) for variable in variables]
        yield
        if self.num_replicas == 1 or not variables:
            return
        count = tf.cast(tf.shape(labels)[0], tf.float32)
        # A replica without photos makes its variables NaN.
        weighted = [
            tf.where(tf.math.is_finite(new), new, old) * count
            for new, old in zip(variables, before, strict=True)
        ]
        *sums, total = self._sum_over_processes([*weighted, count])
        for variable, value in zip(variables, sums, strict=True):
            variable.assign(value / total)

    def of_chief(self, array: np.ndarray) -> np.ndarray:
        """Return the chief's array in every process; each passes an array like it."""
        if self.size == 1:
            return array
        term = array if self.is_chief else np.zeros_like(array)  # 0 * NaN is NaN
        return np.asarray(self._sum_over_processes([term])[0])

    def _sum_over_processes(self, tensors: Sequence[Any]) -> list[Any]:
        if self.strategy is None:
            return list(tensors)

        def reduce(*tensors: Any) -> Any:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors))

        # The strategy asks for the tensors' devices, which are unknown in a graph.
        with tf.device(self.strategy.extended.worker_devices[0]):
            local = tuple(map(tf.identity, tensors))
        return list(self.strategy.run(reduce, args=local))


def rank_and_size(tf_config: str) -> tuple[int, int]:
    """Return the rank of this process and the number of processes.

    `tf_config` is {"cluster": {"chief": [...], "worker": [...]}, "task": {"type": ...,
    "index": ...}} as JSON, or "" for one process.
    """
    try:
        config = json.loads(tf_config or "{}")
        cluster = config.get("cluster", {})
        tasks = [
            (kind, number)
            for kind in ("chief", "worker")
            for number in range(len(cluster.get(kind, ())))
        ]
        if not tasks:
            return 0, 1
        task = (config["task"]["type"], int(config["task"]["index"]))
        return tasks.index(task), len(tasks)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "TF_CONFIG: expected a cluster of chief and workers that contains the task "
            f"of this process, found {tf_config[:200]} ({error!r:.100})."
        ) from error


SINGLE_PROCESS = ProcessGroup()
