"""The rules of the house that no linter knows: doors, writers, names, furniture."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from sendora.app import CHANNELS, MODULES
from sendora.kernel import metrics
from sendora.kernel.errors import problems

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "python" / "sendora"
ROOMS = sorted(path.name for path in (HOUSE / "modules").iterdir() if (path / "__init__.py").exists())

WRITES = re.compile(r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+(?:ONLY\s+)?([a-z_]+)", re.IGNORECASE)
READS = re.compile(r"\b(?:FROM|JOIN)\s+([a-z_]+)", re.IGNORECASE)
COMMENT = re.compile(r"--.*$", re.MULTILINE)
TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?([a-z_]+)", re.IGNORECASE)


def test_a_room_is_imported_only_by_its_door() -> None:
    for file, module in _imports():
        inside = re.match(r"sendora\.modules\.(\w+)\.(\w+)", module)
        if inside and f"modules/{inside[1]}/" not in file.as_posix():
            raise AssertionError(f"{file.relative_to(ROOT)} reaches past the door of {inside[1]}: {module}")


def test_rooms_only_look_down() -> None:
    order = [module.name for module in MODULES]
    for file, module in _imports():
        room = re.search(r"modules/(\w+)/", file.as_posix())
        other = re.match(r"sendora\.modules\.(\w+)", module)
        if room and other and other[1] != room[1]:
            assert order.index(other[1]) < order.index(room[1]), f"{room[1]} looks up at {other[1]}"


def test_every_metric_is_set_somewhere() -> None:
    said = "".join(file.read_text() for file in HOUSE.rglob("*.py") if file != Path(metrics.__file__))
    never = [name for name in metrics.METRICS if f'"{name}"' not in said]
    assert not never


def test_one_writer_for_each_table() -> None:
    writers: dict[str, set[str]] = defaultdict(set)
    tables = _tables()
    for floor, sql in _sql():
        for table in WRITES.findall(COMMENT.sub("", sql)):
            if table in tables:
                writers[table].add(floor)
    shared = {table: floors for table, floors in writers.items() if len(floors) > 1}
    assert not shared, shared
    assert writers, "the search found nothing"


def test_a_room_says_whose_tables_it_reads() -> None:
    owners = {table: floor for floor, table in _owners()}
    for floor, sql in _sql():
        said = set(re.findall(r"^-- reads: (.+)$", sql, re.MULTILINE))
        named = {name.strip() for line in said for name in line.split(",")}
        for table in READS.findall(COMMENT.sub("", sql)):
            owner = owners.get(table)
            if owner is not None and owner != floor:
                assert table in named, f"{floor}/queries.sql reads {table} of {owner} and does not say so"


def test_every_room_has_a_mirror_in_the_tests() -> None:
    assert [
        module.name for module in MODULES if not list((ROOT / "tests" / "modules" / module.name).glob("test_*.py"))
    ] == []
    assert sorted(module.name for module in MODULES) == ROOMS


def test_rooms_with_people_can_erase_and_export() -> None:
    people = re.compile(r"^\s*(person|user_id|external_id)\s+text", re.MULTILINE)
    for migration in (ROOT / "migrations").glob("*.sql"):
        room = _room_of(migration)
        if people.search(migration.read_text()) and room in ROOMS:
            module = next(module for module in MODULES if module.name == room)
            assert module.erase is not None, f"{room} keeps people and cannot forget them"
            assert module.export is not None, f"{room} keeps people and cannot tell what it knows"


def test_names_are_unique() -> None:
    consumers = [consumer.name for module in MODULES for consumer in module.consumers]
    jobs = [job.name for module in MODULES for job in module.jobs]
    subjects = [answer.subject for module in MODULES for answer in module.answers]
    for names in (consumers, jobs, subjects, [module.name for module in MODULES]):
        assert len(names) == len(set(names)), names
    assert list(CHANNELS) == ["push", "live_activities"]


def test_error_codes_are_documented_and_mean_one_status() -> None:
    by_code: dict[str, set[int]] = defaultdict(set)
    for problem in problems():
        assert problem.__doc__, problem
        by_code[problem.code].add(problem.status)
    assert all(len(statuses) == 1 for statuses in by_code.values()), by_code


def test_every_metric_is_explained() -> None:
    assert all(metric.sentence.strip().endswith(".") for metric in metrics.METRICS.values())


def test_stage_files_say_what_they_eat() -> None:
    for name in ("plan", "dispatch", "account"):
        text = ast.get_docstring(ast.parse((HOUSE / "delivery" / f"{name}.py").read_text())) or ""
        for word in ("eats", "gives", "bounded by", "acks when", "if it dies"):
            assert word in text.lower(), f"delivery/{name}.py does not say {word!r}"


def _imports() -> Iterator[tuple[Path, str]]:
    for file in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield file, alias.name
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield file, node.module
                if node.module == "sendora.modules":
                    for alias in node.names:
                        yield file, f"{node.module}.{alias.name}"


def _sql() -> Iterator[tuple[str, str]]:
    """(floor or room, the text of its named statements)."""
    yield "delivery", (HOUSE / "delivery" / "queries.sql").read_text()
    for room in ROOMS:
        for file in (HOUSE / "modules" / room).rglob("*.sql"):
            yield room, file.read_text()


def _tables() -> set[str]:
    return {table for _, table in _owners()}


def _owners() -> Iterator[tuple[str, str]]:
    """(room, table): a migration's name says whose tables it makes."""
    for migration in (ROOT / "migrations").glob("*.sql"):
        room = _room_of(migration)
        for table in TABLE.findall(migration.read_text()):
            yield room, table


def _room_of(migration: Path) -> str:
    """`NNNN_<room or floor>_<what>.sql`; a room's name may have several words."""
    named = migration.name.partition("_")[2]
    return next((room for room in ROOMS if named.startswith(f"{room}_")), named.partition("_")[0])
