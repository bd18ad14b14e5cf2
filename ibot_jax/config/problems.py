"""What is wrong with a config, in sentences: of pre-training and of fine-tuning alike.

A check of several keys is a generator that takes the config, flattened, and yields what is wrong in
sentences. It reads the keys that it needs; where one of them is wrong by itself, it says nothing.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from ibot_jax.config import durations
from ibot_jax.config.flat import Flat
from ibot_jax.config.hints import unknown_key
from ibot_jax.config.keys import Key, Keys
from ibot_jax.config.plan import Plan
from ibot_jax.errors import UserError

Check = Callable[[Flat], Iterator[str]]


def config_problems(
    flat: Flat, keys: Keys, checks: Iterable[Check], *, unknown: Iterable[str] = ()
) -> list[str]:
    """Returns all that is wrong with a config, in sentences.

    Args:
      flat: the config.
      keys: that it should have.
      checks: of several keys.
      unknown: keys whose values are not known yet; nothing is said of them.
    """
    wrong = dict(_key_problems(flat, keys))
    wrong |= dict.fromkeys(unknown, "")
    sound = {key: value for key, value in flat.items() if key not in wrong}
    found = list(filter(None, wrong.values()))
    for check in checks:
        try:
            found += check(sound)
        except KeyError as error:
            if error.args[0] not in wrong:
                raise
    return found


def _key_problems(flat: Flat, keys: Keys) -> Iterator[tuple[str, str]]:
    for name in flat:
        if name not in keys:
            yield name, unknown_key(name, keys)
    for name, key in keys.items():
        if name not in flat:
            yield name, f"config.{name} is missing; start from the default get_config()"
        elif flat[name] is None:
            yield (
                name,
                (
                    "the config leaves keys open (None): a training takes them from the weights of "
                    "init_from; set that, or them"
                ),
            )
        elif problem := key.problem(flat[name]):
            yield name, stated(flat, name, problem)


def stated(flat: Flat, key: str, problem: str) -> str:
    """Returns a sentence that begins with a key and its value."""
    return f"{key}={flat[key]!r} {problem}"


def refuse(found: Iterable[str]) -> None:
    """Raises all that was found as one UserError, if anything was."""
    if found := list(dict.fromkeys(found)):
        raise UserError("; ".join(found))


@contextlib.contextmanager
def noted(found: list[str]) -> Iterator[None]:
    """Adds the UserError that ends the block, if one does, to what was found."""
    try:
        yield
    except UserError as error:
        found.append(str(error))


def share_of_run(flat: Flat, key: str, plan: Plan | None) -> float:
    """Returns the duration `key` over that of the run.

    It is NaN if there is no such key, or if only the data can tell, and there is no plan.
    """
    if key not in flat:
        return math.nan
    if plan is not None:
        return plan.steps(key, flat[key]) / plan.total_steps
    return durations.share(flat[key], flat["duration"], flat["batch_size"])


def run_too_short(
    flat: Flat, keys: Keys, late: Mapping[str, float], plan: Plan | None
) -> Iterator[str]:
    """Yields a sentence if there is something that a run is too short for.

    Args:
      flat: the config.
      keys: of it.
      late: what does not end in time: the key, and the largest share of the run that would do.
      plan: the run's length, if it is known.
    """
    if not late:
        return

    def shown(key: str) -> str:
        steps = f" ({plan.steps(key, flat[key])} steps)" if plan else ""
        return f"{key}={flat[key]!r}{steps}"

    length = f"duration={flat['duration']!r}" + (f" ({plan.total_steps} steps)" if plan else "")
    fitting = {key: min(_default_share(keys, key), most) for key, most in late.items()}
    remedy = _listed(f'{key}="{100 * share:.3g}%"' for key, share in fitting.items())
    yield f"{length} is too short for {_listed(map(shown, late))}; lengthen it, or set {remedy}"


def periods_too_short(flat: Flat, keys: Iterable[str], plan: Plan) -> Iterator[str]:
    """Yields a sentence for each of the periods `keys` that is less than a step."""
    for key in keys:
        if flat.get(key) and plan.steps(key, flat[key]) < 1:
            yield stated(flat, key, "is less than one step; make it longer")


def _default_share(keys: Mapping[str, Key], key: str) -> float:
    default: Flat = {name: keys[name].default for name in (key, "duration", "batch_size")}
    return durations.share(default[key], default["duration"], default["batch_size"])


def _listed(texts: Iterable[str]) -> str:
    *texts, last = texts
    return f"{', '.join(texts)} and {last}" if texts else last
