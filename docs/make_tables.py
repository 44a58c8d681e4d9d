"""Write the tables of the pages that come from the code: `python docs/make_tables.py` after a change of settings or presets.

A table stands in its page between `<!-- NAME: written by docs/make_tables.py -->` and `<!-- end of NAME -->`; a test holds that
the committed pages are up to date.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from segnas import zoo
from segnas.api import usual_input
from segnas.benchmarking import all_strategies
from segnas.config import dotted_keys, flat, to_dict
from segnas.costs.counts import count
from segnas.costs.layers import layer_calls
from segnas.data.transforms import DataConfig
from segnas.nets.auto_deeplab_supernet import AutoDeepLabSupernet
from segnas.nets.darts_supernet import DartsSupernet
from segnas.nets.dpc import DenseCell
from segnas.spaces.auto_deeplab import AutoDeepLabSpace
from segnas.spaces.choice import size
from segnas.spaces.darts import DartsSpace
from segnas.strategies.base import load_strategy
from segnas.systems import auto_deeplab, darts
from segnas.systems.base import System, all_systems
from segnas.systems.settings import PRESETS, RunConfig
from segnas.systems.trials import TrialRunConfig

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {"segmentation": 19, "classification": 10}  # of Cityscapes and of CIFAR-10, for which the papers count
TRIAL_SYSTEMS = tuple(system for system in all_systems() if system.estimator is not None)
ORDER = ("quick", "small", "paper")
TASKS = {"segmentation": "presets", "classification": "one class an image"}  # task -> head of the column of its presets
FIRST_FILES = {
    "segnas/verbs.py": "the verbs, each a few lines over a function of the next file",
    "segnas/api.py": "what a run consists of, in its order",
    "segnas/systems/auto_deeplab.py": "the system: equations, deviations, search, presets",
    "segnas/nets/auto_deeplab_supernet.py": "the supernet that it trains",
    "segnas/strategies/bilevel.py": "the steps of the weights and of the architecture",
    "segnas/training/retrain.py": "training from scratch, a plain loop",
}
MEANINGS = yaml.safe_load((ROOT / "docs" / "meanings.yaml").read_text(encoding="utf-8"))
SEARCHED = ("search", "network")  # the sections that differ from system to system
RECIPE = "search.training.recipe."
ENCODERS = {"mobilenet-v2": 320, "xception": 2048}  # name -> channels of its features, behind which the paper counts its cell
NASNETS = ("nasnet-", "amoebanet-", "pnasnet-")  # how their names in the zoo begin
PAGE_OF = {
    "dpc": "dpc.md",
    "fast-nas": "fast_nas.md",
    "nas-rl": "nas_rl.md",
    **dict.fromkeys(("amoebanet", "nasnet", "pnas"), "nasnet.md"),
}


def configuration() -> str:
    """Every key with its default, the presets that differ, and its meaning; one table a section, those of systems at the end."""
    known = MEANINGS["every run"]
    found = sections("", defaults(RunConfig), known, {head: PRESETS[task] for task, head in TASKS.items()})
    for system in (one for one in all_systems() if one not in TRIAL_SYSTEMS):
        require_explained(system)
        values = defaults(system.config)
        own = known | MEANINGS["searches through a supernet"] | MEANINGS["own"][system.name]
        columns = {TASKS[task]: system.presets_for(task) for task in system.tasks}
        found |= sections(f" of {system.name}", {section: values[section] for section in SEARCHED}, own, columns)
    found |= sections(" by trials", shared_by_trials(), MEANINGS["searches by trials"], {})
    for system in TRIAL_SYSTEMS:
        require_explained(system)
        found = merged(found, of_trials(system))
    used = set(dotted_keys(defaults(RunConfig))) | set(dotted_keys(shared_by_trials()))
    used |= {key for system in all_systems() for key in dotted_keys(defaults(system.config))}
    explained = {
        key for section in ("every run", "searches through a supernet", "searches by trials") for key in MEANINGS[section]
    }
    if explained - used:
        raise ValueError(f"docs/meanings.yaml explains what no system has: {', '.join(sorted(explained - used))}")
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in found.items())


def defaults(config: Any) -> dict[str, Any]:
    """A configuration's own values."""
    return dict(to_dict(config(data=DataConfig(crop=(1, 1)))))


def shared_by_trials() -> dict[str, Any]:
    """The sections of every search by trials."""
    values = defaults(TrialRunConfig)
    return {"search": {**values["search"], "options": {}}, "execution": values["execution"]}


def require_explained(system: System) -> None:
    """Raise ValueError where a system's own keys and their explanations differ."""
    if system in TRIAL_SYSTEMS:
        views = [view(to_dict(make())) for task in system.tasks for make in system.presets_for(task).values()]
        keys = {*view(defaults(system.config)), *(key for one in views for key in one)}
        keys = {key for key in keys if not key.startswith("search.options.")} - set(dotted_keys(shared_by_trials()))
    else:
        values = defaults(system.config)
        keys = set(dotted_keys({section: values[section] for section in SEARCHED}))
    own = set(MEANINGS["own"][system.name])
    known = {key for group in ("every run", "searches through a supernet", "short trainings") for key in MEANINGS[group]}
    wrong = (own - keys) | (keys - own - known)
    if wrong:
        raise ValueError(f"docs/meanings.yaml explains other keys of {system.name} than there are: {', '.join(sorted(wrong))}")


def merged(found: Mapping[str, str], parts: Mapping[str, str]) -> dict[str, str]:
    """Sections with others added; those of several systems that are the same become one."""
    result = dict(found)
    for title, text in parts.items():
        same = [one for one, table in result.items() if table == text]
        if same:
            name = title.split(" of ")[1]
            result = {f"{one}, {name}" if one == same[0] else one: table for one, table in result.items()}
        else:
            result[title] = text
    return result


def of_trials(system: System) -> dict[str, str]:
    """The sections of a system that searches by trials; of what such searches share only what its presets set."""
    made = {task: {name: to_dict(make()) for name, make in system.presets_for(task).items()} for task in system.tasks}
    views = {TASKS[task]: {name: view(values) for name, values in column.items()} for task, column in made.items()}
    first = next(iter(made.values()))["quick"]
    strategy = first["search"]["strategy"]
    options = {f"search.options.{strategy}.{key}": text for key, text in MEANINGS["strategies"][strategy].items()}
    known = MEANINGS["searches through a supernet"] | MEANINGS["searches by trials"] | MEANINGS["short trainings"]
    meanings = known | options | MEANINGS["own"][system.name]
    usual = defaults(system.config)
    usual["search"]["options"] = {strategy: to_dict(load_strategy(strategy).options())}
    usual = view(usual)
    shared = {*dotted_keys(shared_by_trials()), *options}
    rows: dict[str, list[tuple[str, ...]]] = {f"{section} of {system.name}": [] for section in SEARCHED}
    for key in dotted_keys({section: first[section] for section in SEARCHED}):
        default = usual.get(key)
        others = [differing(default, {name: one.get(key, default) for name, one in column.items()}) for column in views.values()]
        if any(others) or (key in usual and key not in shared):
            text = shown(default) if key in usual else ""
            rows[f"{key.split('.')[0]} of {system.name}"].append((f"`{key}`", text, *others, meanings[key]))
    return {title: table(("key", "default", *views, "meaning"), found) for title, found in rows.items()}


def view(values: Mapping[str, Any]) -> dict[str, Any]:
    """Search and network of a configuration by dotted key, without what a trial's recipe has as retraining has it.

    Nor what no trial has: validations, an auxiliary head, drop path.
    """
    found = flat({section: values[section] for section in SEARCHED})
    return {
        key: value
        for key, value in found.items()
        if not key.startswith(RECIPE)
        or (
            (key.removeprefix(RECIPE) not in ("validate_every", "auxiliary_weight", "drop_path"))
            and value != values["retrain"][key.removeprefix(RECIPE)]
        )
    }


def sections(whose: str, values: Any, meanings: Mapping[str, str], columns: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Title and table of each section. columns: head -> name of a preset -> function that makes its configuration."""
    made = {head: {name: to_dict(makers[name]()) for name in ORDER if name in makers} for head, makers in columns.items()}
    rows: dict[str, list[tuple[str, ...]]] = {}
    for key in dotted_keys(values):
        default = look_up(values, key)
        others = [differing(default, {name: look_up(preset, key) for name, preset in column.items()}) for column in made.values()]
        section = f"{key.split('.')[0]}{whose}" if "." in key else "The run"
        rows.setdefault(section, []).append((f"`{key}`", "" if key == "data.crop" else shown(default), *others, meanings[key]))
    return {title: table(("key", "default", *columns, "meaning"), found) for title, found in rows.items()}


def differing(default: Any, presets: Mapping[str, Any]) -> str:
    """The presets that differ from the default, with their values."""
    others = {name: shown(value) for name, value in presets.items() if value != default}
    if len(others) == len(presets) > 1 and len(set(others.values())) == 1:
        return f"each {next(iter(others.values()))}"
    return ", ".join(f"{name} {value}" for name, value in others.items())


def published(names: Sequence[str], forms: Sequence[str | None] = (None,)) -> str:
    """Networks of the zoo, each in these forms: what their papers print and what is counted here."""
    rows = []
    for form in forms:
        entries = [zoo.load(name) if form is None else zoo.in_form(zoo.load(name), form) for name in names]
        for entry in entries:
            (height, width), classes = usual_input("", entry.architecture)
            ours = count(entry.architecture, (height, width), classes)
            parameters, multiply_adds = (entry.paper.get(key) for key in ("parameters_m", "multiply_adds_g"))
            printed = "" if multiply_adds is None else giga(multiply_adds)
            convention = [] if ours.paper_multiply_adds is None else [giga(ours.paper_multiply_adds / 1e9)]
            rows.append(
                (
                    f"`{entry.name}`" + ("" if form is None else f", {form}"),
                    "" if parameters is None else f"{parameters:g} M",
                    f"{ours.parameters:,}",
                    printed,
                    *convention,
                    giga(ours.multiply_adds / 1e9),
                )
            )
    head = ("", "parameters, paper", "here", "multiply-adds, paper")
    return table((*head, "in its convention", "plain") if len(rows[0]) > 5 else (*head, "here"), rows)


def published_at(names: Sequence[str], columns: Mapping[str, str] | None = None) -> str:
    """Networks of the zoo at their papers' own sizes and classes: what is printed and what is counted here.

    columns: key of a printed figure -> head of its column.
    """
    rows = []
    for entry in map(zoo.load, names):
        (height, width), classes = entry.paper["size"], entry.paper["classes"]
        ours = count(entry.architecture, (height, width), classes)
        parameters, multiply_adds = (entry.paper.get(key) for key in ("parameters_m", "multiply_adds_g"))
        rows.append(
            (
                f"`{entry.name}`",
                entry.paper["network"],
                f"{height}x{width}, {classes} classes",
                "" if parameters is None else f"{parameters:g} M",
                f"{ours.parameters:,}",
                "" if multiply_adds is None else as_printed(multiply_adds),
                f"{ours.multiply_adds:,}",
                *(f"{entry.paper[key]:g}" for key in columns or {}),
            )
        )
    head = ("", "network", "at", "parameters, paper", "here", "multiply-adds, paper", "here", *(columns or {}).values())
    return table(head, rows)


def dpc_cell() -> str:
    """The published dense prediction cell alone, behind two encoders: its branches' convolutions, as the paper counts."""
    entry = zoo.load("dpc-cityscapes-top1")
    (height, width), stride = entry.paper["size"], entry.architecture.network.output_stride
    size = (-(-height // stride), -(-width // stride))
    rows = []
    for encoder, channels in ENCODERS.items():
        with torch.device("meta"):
            calls = layer_calls(DenseCell(entry.architecture, channels), (1, channels, *size))
        branches = [call for call in calls if call.name.startswith("branches.")]
        printed = entry.paper["cell"][encoder]
        parameters = sum(call.layer.weight.numel() for call in branches)
        multiply_adds = sum(call.multiply_adds for call in branches)
        theirs = (f"{printed['parameters_m']:g} M", as_printed(printed["multiply_adds_g"]))
        rows.append((encoder, str(channels), theirs[0], f"{parameters:,}", theirs[1], f"{multiply_adds:,}"))
    return table(("encoder", "its channels", "parameters, paper", "here", "multiply-adds, paper", "here"), rows)


def own_strategies() -> list[str]:
    """The names of the strategies of the package, whatever files of others were read."""
    found = all_strategies()
    return [name for name in found if found[name].__module__.startswith("segnas.")]


def strategies() -> str:
    """Every strategy with its paper, what it does and its options."""
    about = MEANINGS["about strategies"]
    if set(about) != set(own_strategies()):
        raise ValueError("docs/meanings.yaml tells of other strategies than there are")
    rows = []
    for name in own_strategies():
        kind = load_strategy(name)
        options = ", ".join(f"{key}={shown(value)}" for key, value in flat(to_dict(kind.options())).items())
        rows.append((f"`{name}`", *about[name], "all" if kind.multi_objective else "the first", options or "none"))
    return table(("strategy", "paper", "", "objectives that it follows", "options and their defaults"), rows)


def strategy_options() -> str:
    """What the options of the strategies mean; those that two controllers share once."""
    rows = []
    for name in own_strategies():
        meanings, values = MEANINGS["strategies"][name], flat(to_dict(load_strategy(name).options()))
        if set(meanings) != set(values):
            raise ValueError(f"docs/meanings.yaml explains other options of {name} than there are")
        for key in values:
            shared = name == "ppo" and key in MEANINGS["strategies"]["reinforce"]
            if name != "reinforce":
                rows.append((f"`ppo.{key}`, `reinforce.{key}`" if shared else f"`{name}.{key}`", meanings[key]))
    return table(("option", "meaning"), rows)


def trial_systems() -> str:
    """What each system by trials searches, how, and how a trial is judged."""
    rows = []
    for system in TRIAL_SYSTEMS:
        searched, judged = MEANINGS["about trial systems"][system.name]
        config = next(iter(system.presets_for(system.tasks[0]).values()))()
        assert system.space is not None
        architectures = power(size(system.space(system.config(data=DataConfig(crop=(1, 1))))))
        page = PAGE_OF[system.name]
        rows.append(
            (
                f"[`{system.name}`]({page})",
                searched,
                architectures,
                f"`{config.search.strategy}`",
                judged,
                ", ".join(system.tasks),
            )
        )
    return table(("system", "space", "architectures", "strategy", "how a trial is judged", "tasks"), rows)


def power(number: int) -> str:
    """A large number in two digits."""
    return f"{number:.1e}".replace("e+0", "e").replace("e+", "e")


def as_printed(value: float) -> str:
    """Multiply-adds in billions, in the digits that the paper gives."""
    return f"{value:g} G" if value >= 1 else f"{1000 * value:g} M"


def giga(value: float) -> str:
    """Multiply-adds in the unit that leaves three digits or more."""
    return f"{value:.2f} G" if value >= 1 else f"{1000 * value:.0f} M"


def presets(system: System) -> str:
    """How large the search of each preset is."""
    rows = []
    for task in system.tasks:
        for name, make in system.presets_for(task).items():
            config = make()
            search = config.search
            with torch.device("meta"):
                supernet, space, width = SUPERNETS[system.name](config, CLASSES[task])
            architectures = power(size(space))
            parameters = sum(parameter.numel() for parameter in supernet.parameters()) / 1e6
            epochs = f"{search.epochs}, from {search.architecture_from_epoch + 1} on"
            crop = f"{search.crop[0]}x{search.crop[1]}" + (f" at {search.resize:g}" if search.resize != 1 else "")
            title = f"`{name}`" + (f", {task}" if len(system.tasks) > 1 else "")
            size_of_supernet = f"{parameters:.1f} M" if parameters >= 0.95 else f"{parameters:.2f} M"
            layers = f"{search.layers} x {search.blocks}"
            rows.append((title, layers, architectures, size_of_supernet, epochs, crop, width))
    head = ("preset", "layers x blocks", "architectures", "supernet", "epochs, architecture", "crop", "result")
    return table(head, rows)


def auto_deeplab_search(config: Any, classes: int) -> tuple[torch.nn.Module, Any, str]:
    """Supernet, space, and width of the result."""
    search = config.search
    supernet = AutoDeepLabSupernet(
        classes, search.layers, search.blocks, search.filters, search.operations, search.stem, search.head_width
    )
    return supernet, AutoDeepLabSpace(search.layers, search.blocks, search.operations), f"{config.network.filters} filters"


def darts_search(config: Any, classes: int) -> tuple[torch.nn.Module, Any, str]:
    """The same."""
    search = config.search
    options = darts.supernet_options(search, config.network)
    supernet = DartsSupernet(classes, options, search.blocks, search.operations, search.partial_channels)
    chosen = tuple(name for name in search.operations if name != "none")
    return supernet, DartsSpace(search.blocks, chosen), f"{config.network.channels} channels, {config.network.layers} cells"


SUPERNETS = {"auto-deeplab": auto_deeplab_search, "darts": darts_search}


def first_files() -> str:
    """The files to read first, with their lengths."""
    rows = []
    for number, (name, what) in enumerate(FIRST_FILES.items(), start=1):
        lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())
        rows.append((str(number), f"[{name}]({name})", str(lines), what))
    return table(("", "file", "lines", ""), rows)


TABLES: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "auto deeplab published": partial(published, ("auto-deeplab-s", "auto-deeplab-m", "auto-deeplab-l")),
    "auto deeplab presets": partial(presets, auto_deeplab.SYSTEM),
    "darts published": partial(published, ("darts-v1", "darts-v2", "pc-darts"), ("cifar", "imagenet")),
    "darts presets": partial(presets, darts.SYSTEM),
    "strategies": strategies,
    "strategy options": strategy_options,
    "trial systems": trial_systems,
    "nasnet published": partial(published_at, [name for name in zoo.names() if name.startswith(NASNETS)]),
    "dpc cell": dpc_cell,
    "dpc published": partial(published_at, ["dpc-cityscapes-top1"]),
    "fast nas published": partial(published_at, [f"fast-nas-arch{number}" for number in range(3)]),
    "template nas published": partial(
        published_at,
        [f"template-nas-arch{number}" for number in range(2)],
        {"cityscapes_test_mIoU": "Cityscapes test, paper", "camvid_test_mIoU": "CamVid test, paper"},
    ),
    "nas rl published": partial(published_at, ["nas-rl-v1"]),
    "first files": first_files,
}


def updated(text: str) -> str:
    """A page with its tables written anew."""
    pattern = re.compile(r"(<!-- ([a-z ]+): written by docs/make_tables.py -->\n).*?(<!-- end of \2 -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


def pages() -> list[Path]:
    """The pages that hold such tables."""
    return [
        path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "make_tables.py -->" in path.read_text()
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(cells) for cells in (head, ["--"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def shown(value: Any) -> str:
    """A value as one writes it in an override."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and len(value) > 3 and isinstance(value[0], str):
        return f"all {len(value)}"
    if isinstance(value, list):
        return f"[{', '.join(shown(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def look_up(values: Any, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        values = values[part]
    return values


if __name__ == "__main__":
    for page in pages():
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(page.relative_to(ROOT))
