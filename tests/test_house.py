"""The house: imports between packages run downwards, and through the front door of each."""

import ast
import itertools
import pathlib

import trm_jax

HOUSE = pathlib.Path(trm_jax.__file__).parent
SCRIPTS = HOUSE.parent / "scripts"
FLOORS = [
    ["errors", "files", "demo", "processes"],
    ["config"],
    ["hardware"],
    ["data", "model"],
    ["decoding", "checkpoints"],
    ["training", "conversion", "evaluation"],
    ["experiments", "benchmark", "publishing", "serving"],
    ["gpu_check", "server"],
    ["cli", "doctor"],
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
BIG = 310  # lines, from which a file should become two


def room_of(path: pathlib.Path) -> str:
    """The package that a file is in, or the file itself where it lies in none."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imports_of(path: pathlib.Path) -> list[tuple[str, str | None]]:
    """What a file imports of trm_jax, in functions too: module and name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "trm_jax":
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names if alias.name.partition(".")[0] == "trm_jax"]
    return found


def rooms_entered(path: pathlib.Path) -> set[str]:
    """The rooms that a file imports from."""
    whole = [name if module == "trm_jax" else module.split(".")[1] for module, name in imports_of(path)]
    return {room for room in whole if room is not None}


def open_in(room: str) -> set[str]:
    """What others may import of a room: what the __init__ of a package names, and all of a file."""
    door = HOUSE / room / "__init__.py"
    names = {name for module, name in imports_of(door)} if door.exists() else set()
    tree = ast.parse((door if door.exists() else HOUSE / f"{room}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
    return names


FILES = [path for path in sorted(HOUSE.rglob("*.py")) if path != HOUSE / "__init__.py"]


def test_every_room_has_a_floor():
    rooms = {path.name.removesuffix(".py") for path in HOUSE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__"} == set(FLOOR_OF)


def test_imports_run_downwards():
    """A room may use those below it and beside it, never those above."""
    upwards = [
        f"{path.relative_to(HOUSE)} imports {room}"
        for path in FILES
        for room in rooms_entered(path)
        if FLOOR_OF[room] > FLOOR_OF[room_of(path)]
    ]
    assert upwards == []


def test_imports_beside_each_other_make_no_circle():
    beside = {room: set() for room in FLOOR_OF}
    for path in FILES:
        beside[room_of(path)] |= {room for room in rooms_entered(path) if FLOOR_OF[room] == FLOOR_OF[room_of(path)]}
    for room in beside:
        beside[room].discard(room)
    for rooms in FLOORS:
        for length in range(2, len(rooms) + 1):
            for circle in itertools.permutations(rooms, length):
                steps = zip(circle, (*circle[1:], circle[0]), strict=True)
                assert not all(there in beside[here] for here, there in steps), circle


def test_others_rooms_are_entered_by_their_front_door():
    """What a package's __init__ does not name is its own business."""
    behind = []
    for path in [*FILES, *sorted(SCRIPTS.glob("*.py"))]:
        for module, name in imports_of(path):
            room = module.partition(".")[2]
            is_own = path.parent != SCRIPTS and room.split(".")[0] == room_of(path)
            if room and not is_own and ("." in room or name not in open_in(room)):
                behind.append(f"{path.name}: {module}.{name}")
    assert behind == []


def test_every_public_function_shows_how_it_is_called():
    """Public is what a package's __init__ names."""
    silent = []
    for door in HOUSE.glob("*/__init__.py"):
        public = {name for _, name in imports_of(door)}
        for path in door.parent.glob("*.py"):
            functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
            silent += [
                f"{path.parent.name}.{node.name}"
                for node in functions
                if node.name in public and "Example: " not in (ast.get_docstring(node) or "")
            ]
    assert silent == []


def test_files_are_of_a_size_that_can_be_read():
    too_big = [str(path.relative_to(HOUSE)) for path in FILES if len(path.read_text().splitlines()) > BIG]
    assert too_big == []


def test_no_test_imports_another():
    """What tests share lies in tests/support."""
    tests = pathlib.Path(__file__).parent
    for path in tests.rglob("test_*.py"):
        names = [
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests")
        ]
        assert not any(name.split(".")[-1].startswith("test_") for name in names), path
