from everlog import migrations
from everlog.migrations.status import differences
from everlog.store.database import Database
from tests.migrations.project import Project


def test_an_edit_is_shown_as_a_diff_of_what_ran(project: Project, db: Database) -> None:
    folder = project.add("one", files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\n", "note.txt": "a"})
    migrations.apply(db, project.build().path)
    assert differences(db, project.path) == {}
    rows = folder / "bootstrap_airports.csv"
    rows.write_text("faa,name\nJFK,John F. Kennedy\n")
    (folder / "note.txt").unlink()
    (folder / "logo.bin").write_bytes(b"\xff\xfe")
    assert differences(db, project.path) == {
        20260101000000: "--- applied/bootstrap_airports.csv\n"
        "+++ v20260101000000_one/bootstrap_airports.csv\n"
        "@@ -1,2 +1,2 @@\n"
        " faa,name\n"
        "-JFK,Kennedy\n"
        "+JFK,John F. Kennedy\n"
        "Binary file logo.bin differs\n"
        "--- applied/note.txt\n"
        "+++ /dev/null\n"
        "@@ -1 +0,0 @@\n"
        "-a\n"
        "\\ No newline at end of file\n"
    }
