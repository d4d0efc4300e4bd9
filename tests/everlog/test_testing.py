"""The pytest plugin, in separate sessions of pytest."""

import shutil
import subprocess
import sys

import pytest

from everlog.migrations.testing.template import templates
from tests.migrations.project import Project

pytest_plugins = ["pytester"]

TESTDATA = """
    from . import AIRPORTS, Airport

    def rows(random, scale):
        for number in range(10 * scale):
            yield AIRPORTS, Airport(faa=f"{number:04}", name=str(random.random()))
    """
BOOTSTRAP = {"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\n"}
COUNT = "sum(table.rows for table in everlog_db.admin.status().tables)"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project with two migrations, in which pytest is started."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    project = Project(pytester.path)
    project.add("one", files=BOOTSTRAP)
    project.add("two", files={"testdata.py": TESTDATA})
    project.build()
    pytester.makeini(f"[pytest]\npythonpath = .\neverlog_migrations = {project.app}.migrations\n")
    return project


def run(pytester: pytest.Pytester, *words: str, **outcomes: int) -> str:
    """Run pytest and compare its outcomes; return its output."""
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *words)
    result.assert_outcomes(**outcomes)
    return result.stdout.str()


def test_a_test_gets_a_database_of_its_own(pytester: pytest.Pytester, project: Project) -> None:
    pytester.makepyfile(f"""
        import pytest

        @pytest.mark.parametrize("turn", range(3))
        def test_rows(everlog_db, turn):
            from {project.app}.migrations.v20260101000001_two import AIRPORTS

            assert {COUNT} == 1
            with everlog_db.transaction() as tx:
                tx.delete(AIRPORTS, "JFK")
            assert {COUNT} == 0
        """)
    run(pytester, "test_a_test_gets_a_database_of_its_own.py", passed=3)


def test_a_mark_chooses_version_and_test_data(pytester: pytest.Pytester, project: Project) -> None:
    pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.mark.everlog(testdata=True)
        def test_with_data(everlog_db):
            assert {COUNT} == 11

        @pytest.mark.everlog(scale=2)
        def test_with_more(everlog_db):
            assert {COUNT} == 21

        @pytest.mark.everlog(version=20260101000000)
        def test_version(everlog_db):
            assert everlog_db.schema.version == 20260101000000

        @pytest.mark.everlog(verzion=20260101000000)
        def test_mistake(everlog_db):
            pass
        """
    )
    said = run(pytester, "test_it.py", passed=3, errors=1)
    assert "expected @pytest.mark.everlog(version=None, testdata=False" in said


def test_settings_say_how_much_test_data(pytester: pytest.Pytester, project: Project) -> None:
    pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.mark.everlog(testdata=True)
        def test_with_data(everlog_db):
            assert {COUNT} == 31
        """
    )
    run(pytester, "-o", "everlog_scale=3", "-o", "everlog_seed=7", "test_it.py", passed=1)
    said = run(pytester, "-o", "everlog_scale=much", "test_it.py", errors=1)
    assert "everlog_scale: expected a number, found 'much'" in said


@pytest.mark.long
def test_kinds_come_from_mark_command_and_settings(pytester: pytest.Pytester, project: Project) -> None:
    pytester.makepyfile(
        test_it=f"""
        import pytest

        def test_any(everlog_db, everlog_on):
            assert (type(everlog_db).__name__ == "RemoteDatabase") == (everlog_on == "server")
            assert {COUNT} == 1

        @pytest.mark.everlog(on="file")
        def test_file(everlog_db):
            assert everlog_db.url.startswith("file:")
        """
    )
    said = run(pytester, "-v", "test_it.py", passed=2)
    assert "test_any PASSED" in said
    said = run(pytester, "-v", "--everlog-on", "memory", "--everlog-on", "server", "test_it.py", passed=3)
    assert "test_any[server] PASSED" in said
    run(pytester, "-o", "everlog_on=memory file server", "test_it.py", passed=4)


def test_a_test_goes_from_version_to_version(pytester: pytest.Pytester, project: Project) -> None:
    pytester.makepyfile(
        test_it="""
        from everlog.testing import upgrade_to

        def test_up(everlog_at):
            db = everlog_at(20260101000000)
            other = everlog_at(testdata=True)
            assert [info.name for info in upgrade_to(db)] == ["two"]
            assert db.schema.version == other.schema.version
        """
    )
    run(pytester, "test_it.py", passed=1)


def test_tests_are_derived_and_those_of_a_folder_are_run(pytester: pytest.Pytester, project: Project) -> None:
    tests = project.folders[0] / "tests"
    tests.mkdir()
    (tests / "test_own.py").write_text(f"def test_own(everlog_db):\n    assert {COUNT} == 1\n")
    said = run(pytester, "-v", passed=14, skipped=1)
    assert "test_own.py::test_own PASSED" in said
    assert "v20260101000000_one/model.proto::rebuild_equals_live PASSED" in said


def test_one_derived_test_is_run_by_its_name(pytester: pytest.Pytester, project: Project) -> None:
    run(pytester, f"{project.folders[1] / 'model.proto'}::upgrades_with_data", passed=1)


def test_derived_tests_are_found_without_a_setting_and_left_out_by_one(
    pytester: pytest.Pytester, project: Project
) -> None:
    (pytester.path / "tox.ini").unlink()
    run(pytester, passed=13, skipped=1)
    run(pytester, "-o", "everlog_derived=false")


@pytest.mark.long
def test_they_run_where_only_other_folders_are_named_to_be_tested(
    pytester: pytest.Pytester, project: Project
) -> None:
    pytester.mkdir("tests").joinpath("test_nothing.py").write_text("def test_nothing(): pass\n")
    run(pytester, "-o", "testpaths=tests", passed=14, skipped=1)
    run(pytester, "tests", passed=1)


@pytest.mark.long
def test_a_session_inside_of_another_leaves_nothing_of_itself(
    pytester: pytest.Pytester, project: Project
) -> None:
    made = templates(project.path)
    for _ in range(2):  # each has its own modules, which are removed with it
        run(pytester, passed=13, skipped=1)
        assert len(made.clone(pytester.mkdir("clone"), scale=1).name) == 5
        shutil.rmtree(pytester.path / "clone")
    assert templates(project.path) is not made


def test_migrations_that_are_not_there_are_said(pytester: pytest.Pytester, project: Project) -> None:
    result = pytester.runpytest_inprocess("-o", "everlog_migrations=nothing.there")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: everlog_migrations: no package or directory*"])
    result.stderr.no_fnmatch_line("*pythonpath*")


def test_migrations_of_the_project_that_are_not_on_the_path_get_the_remedy(
    pytester: pytest.Pytester, project: Project
) -> None:
    (pytester.path / "inner" / "a_shop" / "migrations").mkdir(parents=True)
    result = pytester.runpytest_inprocess("--rootdir=inner", "-o", "everlog_migrations=a_shop.migrations")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: everlog_migrations: no package*add `pythonpath = *"])


def test_a_failure_is_a_sentence(pytester: pytest.Pytester, project: Project) -> None:
    (project.folders[1] / "testdata.py").write_text("def rows(random, scale):\n    yield 1 / 0\n")
    said = run(pytester, passed=11, skipped=1, failed=2)
    assert "SchemaError" in said
    assert "testdata.py:2: ZeroDivisionError: division by zero" in said
    assert "Traceback" not in said
    assert "testing_derived.py" not in said


@pytest.mark.long
def test_without_tests_of_it_everlog_is_not_loaded(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import sys

        def test_nothing_is_loaded():
            loaded = [name for name in sys.modules if name.startswith("everlog")]
            assert sorted(loaded) == ["everlog", "everlog.testing"]
        """
    )
    pytester.runpytest_subprocess("test_it.py").assert_outcomes(passed=1)


def test_the_face_loads_no_pytest() -> None:
    code = "import sys, everlog, everlog.rpc.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
