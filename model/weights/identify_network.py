"""Identify the network that a file's tensors belong to, and the naming that finds them.

A name and a shape prove little, because other networks also have a features.0.weight.
`identify` therefore applies four rules, in this order:

1. A file written by Graft names its network; no other network is tried.
2. A network that the file's own Keras configuration describes is preferred to known
   ones, except to networks of keras.applications that Graft knows, because only Graft
   knows their preprocessing.
3. Otherwise the network wins for which the file has the most kernels, by name and
   shape; then the one with the most tensors, then the one with the fewest missing. If
   several are equal, the user has to choose with --arch.
4. A file that also has layers unknown to this network belongs to another one. It is
   refused, unless the user passes --arch.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence

from model.checkpoints import errors, reading
from model.checkpoints.checkpoint import Checkpoint
from model.checkpoints.tensorflow import ckpt
from model.networks import applications, registry
from model.networks.architecture import Network
from model.networks.keras_models import from_keras_config
from model.networks.pytorch_models import file_names
from model.weights import layer_naming, naming_conventions, usual_preprocessing
from model.weights.layer_naming import LayerNaming
from pipeline.batches.input_spec import InputSpec


@dataclasses.dataclass(frozen=True)
class NetworkMatch:
    """A network of which a file has tensors, and the naming that finds them."""

    checkpoint: Checkpoint  # with Keras' variants of tensors unified
    network: Network
    naming: LayerNaming
    num_kernels: int  # with the right name and shape
    num_tensors: int  # with the right name, whatever their shape
    num_missing: int  # variables of the network that the file lacks

    @property
    def score(self) -> tuple[int, int, int]:
        """Kernels, then tensors, then few missing: the higher, the better the match."""
        return self.num_kernels, self.num_tensors, -self.num_missing


@dataclasses.dataclass(frozen=True)
class Candidates:
    """All networks that a file may belong to."""

    checkpoint: Checkpoint
    matches: Sequence[NetworkMatch]  # of which the file has any tensor, best first
    rebuilt: Network | None  # made of the file's own Keras configuration
    # Why `rebuilt` cannot be used, or why the file's layers, in their order, do not fit
    # the requested network; "" for no reason.
    why_not: str


def find_candidates(checkpoint: Checkpoint, *, arch: str = "") -> Candidates:
    """Find all networks and naming conventions of which a file has any tensor.

    The network `arch` is tried in any case.
    """
    tensors = layer_naming.unify_keras_tensors(checkpoint.tensors)
    checkpoint = dataclasses.replace(checkpoint, tensors=tensors)
    config = checkpoint.keras_config
    name, spec = checkpoint.metadata.get("network", ""), _stated_spec(checkpoint)
    rebuilt, why_not, is_run = None, "", spec is not None
    if config and not (is_run and name in registry.NETWORKS):
        try:
            rebuilt = from_keras_config.rebuild(config, checkpoint.where, is_run=is_run)
        except errors.CheckpointError as error:
            why_not = str(error)
    networks = registry.NETWORKS | ({rebuilt.name: rebuilt} if rebuilt else {})
    if name in networks:  # rule 1
        network = networks[name]
        spec = spec or network.input_spec
        namings = [*naming_conventions.by_layer_name(network, spec, is_own=True)]
    else:
        namings = _known_namings(checkpoint, networks.values(), arch)
        others, reason = _in_order(checkpoint, arch)
        namings, why_not = [*namings, *others], why_not or reason
    matches = [
        _count_matches(checkpoint, naming, networks[naming.network])
        for naming in namings
        if naming.is_possible_in(checkpoint)
    ]
    matches = [match for match in matches if match.num_tensors]
    matches.sort(key=lambda match: match.score, reverse=True)
    return Candidates(checkpoint, matches, rebuilt, why_not)


def _stated_spec(checkpoint: Checkpoint) -> InputSpec | None:
    """Return the preprocessing that a file of Graft states; None for other files."""
    text = checkpoint.metadata.get("input_spec")
    try:
        return InputSpec.from_json(json.loads(text)) if text else None
    except (ValueError, TypeError, RecursionError) as error:
        raise errors.CorruptCheckpoint(
            f"{checkpoint.where}: the input_spec in its metadata cannot be used "
            f"({error}). The file is damaged. Export the weights again."
        ) from error


def _known_namings(
    checkpoint: Checkpoint, networks: Iterable[Network], arch: str
) -> list[LayerNaming]:
    """Return the namings to try for a file that does not name its network."""
    namings = list(naming_conventions.NAMINGS)
    for network in networks:
        if network.landmark:
            if arch == network.name or _has_landmark(checkpoint, network):
                namings.append(naming_conventions.of_application(network, checkpoint))
        elif network.name not in file_names.NETWORKS:
            spec, bgr = usual_preprocessing.by_layer_names(network)
            naming, _ = naming_conventions.by_layer_name(network, spec)
            namings.append(dataclasses.replace(naming, bgr=bgr))
    return namings + [
        dataclasses.replace(
            naming,
            source=f"{naming.source}, in {scope}",
            layers={name: scope + other for name, other in naming.layers.items()},
        )
        for scope in _common_scopes(checkpoint)
        for naming in namings
    ]


def _has_landmark(checkpoint: Checkpoint, network: Network) -> bool:
    """Return whether a file has a network's landmark, in any scope."""
    name, shape = network.landmark or ("", ())
    return any(
        tensor.shape == shape and f"/{found}".endswith(f"/{name}")
        for found, tensor in checkpoint.tensors.items()
    )


def _in_order(checkpoint: Checkpoint, arch: str) -> tuple[list[LayerNaming], str]:
    """Return the namings of networks of Keras whose layers a file has in order.

    Tried are the networks with as many parameters as the file, and `arch`. The second
    value says why `arch` does not fit.
    """
    if not checkpoint.format.startswith("Keras 2"):
        return [], ""
    total = sum(tensor.size for tensor in checkpoint.tensors.values())
    namings, why_not = [], ""
    for name, (*_, num_parameters) in applications.MODELS.items():
        if name == arch or num_parameters == total:
            network = registry.NETWORKS[name]
            try:
                namings.append(naming_conventions.in_order(network, checkpoint))
            except errors.MismatchedCheckpoint as error:
                why_not = str(error) if name == arch else why_not
    return namings, why_not


def _common_scopes(checkpoint: Checkpoint) -> list[str]:
    """Return the scopes of all kernels, from outside in: ["model.", "model.net."]."""
    names = [name for name, array in checkpoint.tensors.items() if array.ndim > 1]
    first = min(names, default="")
    scopes = [first[: match.end()] for match in re.finditer(r"[/.]", first)]
    return [s for s in scopes if all(name.startswith(s) for name in names)]


def _count_matches(
    checkpoint: Checkpoint, naming: LayerNaming, network: Network
) -> NetworkMatch:
    """Count the tensors of a file that a naming finds."""
    shapes = network.variable_shapes(naming.spec or network.input_spec)
    num_kernels = num_tensors = num_others = 0
    final = network.weighted_layers()[-1]
    for layer, variables in shapes.items():
        for variable, shape in variables.items():
            tensor = checkpoint.tensors.get(naming.tensor_name(layer, variable))
            fits = tensor is not None and naming.fits(
                layer, variable, tensor.shape, shape
            )
            num_tensors += tensor is not None
            num_kernels += fits and len(shape) > 1
            num_others += not fits and layer != final
    if naming.is_automatic and num_others:
        num_kernels = 0  # other networks have the same names
    num_missing = sum(map(len, shapes.values())) - num_tensors
    counts = num_kernels, num_tensors, num_missing
    return NetworkMatch(checkpoint, network, naming, *counts)


def identify(checkpoint: Checkpoint, *, arch: str = "") -> NetworkMatch:
    """Find the network that a file's tensors belong to, by the rules above.

    `arch` is the name of the network, or a file that describes it; "" to identify it.
    """
    is_described = from_keras_config.is_file(arch)
    candidates = find_candidates(checkpoint, arch="" if is_described else arch)
    message = candidates.why_not
    if is_described:
        arch = candidates.rebuilt.name if candidates.rebuilt else ""
    try:
        if not (is_described and message):
            return _choose(candidates, arch)
    except errors.MismatchedCheckpoint as error:
        if arch or not message:
            raise errors.MismatchedCheckpoint(f"{error} {message}".strip()) from error
    for match in candidates.matches[:1]:
        if match.num_kernels:
            message += f" Pass --arch={match.network.name} to use what fits it."
    raise errors.MismatchedCheckpoint(message)


def _choose(candidates: Candidates, arch: str) -> NetworkMatch:
    rebuilt, where = candidates.rebuilt, candidates.checkpoint.where
    if arch and not (rebuilt and rebuilt.name == arch):
        registry.by_name(arch)
    matches = [
        match
        for match in candidates.matches
        if arch in ("", match.network.name) and match.num_kernels
    ]
    if not matches:
        raise errors.MismatchedCheckpoint(_explain_no_match(candidates, arch))
    best = matches[0]
    for match in matches:  # rule 2
        if match.network is rebuilt and not _is_keras_application(best, match):
            return match
    # Rule 3. Rule 2 has already decided about the network that the file describes.
    known = [match.network for match in matches if match.network is not rebuilt]
    equal = {
        match.network.name
        for match in matches
        if match.score == best.score and match.network in (best.network, *known)
    }
    if len(equal) > 1:
        choice = " or ".join(f"--arch={name}" for name in sorted(equal))
        raise errors.MismatchedCheckpoint(
            f"{where}: its {best.num_tensors} known tensors fit "
            f"{' and '.join(sorted(equal))} equally well. Pass {choice}."
        )
    # Rule 4.
    shapes = best.network.variable_shapes(best.naming.spec or best.network.input_spec)
    unexplained = best.naming.unexplained_layers(best.checkpoint, shapes)
    if unexplained and not arch:
        others = f" and {len(unexplained) - 3} more" if len(unexplained) > 3 else ""
        raise errors.MismatchedCheckpoint(
            f"{where}: {best.num_tensors} of its tensors have names and shapes of "
            f"{best.network.name} ({best.naming.source}), but it also contains what "
            f"{best.network.name} does not have: {', '.join(unexplained[:3])}{others}. "
            f"It probably belongs to another network. Pass --arch={best.network.name} "
            "to use the matching tensors anyway."
        )
    return best


def _is_keras_application(known: NetworkMatch, rebuilt: NetworkMatch) -> bool:
    """Return whether a file's own description is that of a known network."""
    known_name = from_keras_config.name_of(known.network.name)
    described, expected = (
        re.sub(r"[-_]", "", name.lower()) for name in (rebuilt.network.name, known_name)
    )
    sizes = {match.network.input_spec.size_px for match in (known, rebuilt)}
    return (
        known.num_kernels >= rebuilt.num_kernels
        and known.num_tensors == len(known.checkpoint.tensors)
        and described.startswith(expected)  # such as mobilenetv2_1.00_224
        and len(sizes) == 1
    )


def _explain_no_match(candidates: Candidates, arch: str) -> str:
    """Say why a file fits no network, or not the requested one."""
    checkpoint = candidates.checkpoint
    if kind := reading.describe_tensors(checkpoint.tensors):
        return f"{checkpoint.where}: is {kind}. Expected a network that sees photos."
    fitting = [m.network.name for m in candidates.matches if m.num_kernels]
    advice = f" It fits {fitting[0]}." if arch and fitting else ""
    if not arch:
        advice = " --arch also takes a file of another network."
    named = [m for m in candidates.matches if arch in ("", m.network.name)]
    for match in named[:1]:
        naming, network = match.naming, match.network
        shapes = network.variable_shapes(naming.spec or network.input_spec)
        expected = {
            naming.tensor_name(layer, "kernel"): naming.shapes_in_file(shape["kernel"])
            for layer, shape in shapes.items()
            if "kernel" in shape
        }
        found = {n: t.shape for n, t in checkpoint.tensors.items() if n in expected}
        problems = [
            f"the shape of {name} is {list(shape)}, expected {list(expected[name][0])}"
            for name, shape in found.items()
            if shape not in expected[name]
        ]
        if found and naming.is_automatic:
            problems += [f"it has no {name}" for name in expected if name not in found]
        if problems:
            return (
                f"{checkpoint.where}: it does not fit {arch or 'any network'}. The "
                f"nearest is {network.name}, but {problems[0]}.{advice}"
            )
    if any(name.endswith(ckpt.IN_PARTS) for name in checkpoint.ignored_entries):
        advice += " It has variables in parts, which Graft does not join."
    names = ", ".join(sorted(checkpoint.tensors)[:4])
    names += ", ..." * (len(checkpoint.tensors) > 4)
    return (
        f"{checkpoint.where}: none of its {len(checkpoint.tensors)} tensors ({names}) "
        f"has a name by which Graft knows the layers of {arch or 'any network'}, such "
        f"as conv1/weights or features.0.weight.{advice} Run python -m model.inspect "
        "to see what the file holds."
    )
