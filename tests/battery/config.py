"""C: the experiment file."""

from __future__ import annotations

from tests.battery.case import Case, Fault, changed, toml

SHAPES = 'data.name = "shapes"\n'

CASES = (
    Case(
        id="C01",
        what="The experiment file is missing, is a folder or cannot be read",
        expected="3, with the path and the reason",
        faults=(
            Fault("missing", ("check", "none.toml"), 3, "^none.toml: cannot be read: No such file"),
            Fault("a folder", ("check", "data"), 3, "^data: cannot be read: Is a directory"),
        ),
    ),
    Case(
        id="C02",
        what="The file is empty",
        expected="3, with the missing table and its choices",
        faults=(toml("empty", "", "^odd.toml: data: missing; a table with a name is required"),),
    ),
    Case(
        id="C03",
        what="Syntax error",
        expected="3, with line and column",
        faults=(toml("half a line", "seed = \n", r"not valid TOML: .*\(at line 1, column 8\)"),),
    ),
    Case(
        id="C04",
        what="The file is not UTF-8, has a byte order mark or is UTF-16",
        expected="3, with the position of the byte; a byte order mark is accepted",
        faults=(
            toml("Latin-1", b"seed = 1 # \xe9", "must be UTF-8, got byte 0xe9 at 11"),
            toml("UTF-16", "seed = 1".encode("utf-16"), "must be UTF-8, got byte 0xff at 0"),
            toml("byte order mark", b"\xef\xbb\xbf" + SHAPES.encode(), "", code=0),
        ),
    ),
    Case(
        id="C05",
        what="Unknown key",
        expected="3, with the closest known key",
        faults=(changed("misspelt", "fit.bath_size=3", "did you mean 'batch_size'"),),
    ),
    Case(
        id="C06",
        what="Unknown table",
        expected="3, with the closest known table",
        faults=(toml("misspelt", SHAPES + "[bacbone]\n", "did you mean 'backbone'"),),
    ),
    Case(
        id="C07",
        what="A key or a table appears twice",
        expected="3, with line and column",
        faults=(
            toml("key", "seed = 1\nseed = 2\n", "Cannot overwrite a value .at line 2"),
            toml("table", "[fit]\n[fit]\n", "Cannot declare .*twice .at line 2"),
        ),
    ),
    Case(
        id="C08",
        what="Wrong type: text, a float or a Boolean instead of an integer",
        expected="3, with the expected type",
        faults=(
            changed("text", "fit.batch_size='32'", "batch_size: expected an integer, got '32'"),
            changed("float", "fit.batch_size=32.0", "batch_size: expected an integer, got 32.0"),
            changed("truth", "fit.batch_size=true", "batch_size: expected an integer, got True"),
        ),
    ),
    Case(
        id="C09",
        what="Out of range: batch size 0 or -1; learning rate 0, -1, nan or inf; 0 epochs",
        expected="3, with the range",
        faults=(
            changed("batch 0", "fit.batch_size=0", "must be at least 1, got 0"),
            changed("batch -1", "fit.batch_size=-1", "must be at least 1, got -1"),
            changed("rate 0", "optimizer.learning_rate=0", "must be above 0, got 0.0"),
            changed("rate -1", "optimizer.learning_rate=-1", "must be above 0, got -1.0"),
            changed("rate nan", "optimizer.learning_rate=nan", "must be a finite number, got nan"),
            changed("rate inf", "optimizer.learning_rate=inf", "must be a finite number, got inf"),
            changed("epochs 0", "fit.epochs=0", "must be at least 1, got 0"),
        ),
    ),
    Case(
        id="C10",
        what="An integer beyond 64 bits, or of 5,000 digits",
        expected="3, immediately",
        faults=(
            changed("2⁶⁴", f"seed={2**64}", "seed: must be from 0 to 2147483647"),
            toml("5,000 digits", "seed = 1" + "0" * 5000, "not valid TOML: Exceeds the limit"),
        ),
    ),
    Case(
        id="C11",
        what="5,000 nested arrays; a key of 3,000 parts",
        expected="3, without a traceback",
        faults=(
            toml("arrays", "seed = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
            toml("key", SHAPES + f"seed{'.a' * 3000} = 1", "a key has at most 100 parts"),
        ),
    ),
    Case(
        id="C12",
        what="A file larger than 1 MiB",
        expected="3, before it is parsed",
        faults=(toml("2 MiB", "#" * (2 << 20), "an experiment file has at most 1 MiB"),),
    ),
    Case(
        id="C13",
        what="Keys that contradict each other or the data",
        expected="3, with both",
        faults=(
            changed(
                "a layer that is not there",
                'freeze={name="layer_range", train="1-99"}',
                r"freeze\.train: layers 1-99 reach past the last one",
            ),
            toml(
                "balanced twice",
                'data = {name = "folder", path = "data", sampler = "balanced"}\n'
                'class_weights.name = "balanced"\n',
                r"data\.sampler: 'balanced' and \[class_weights\] would both",
            ),
            toml(
                "a result of another class",
                SHAPES + '[[reference]]\nsource = "x"\nrecall = {lungs = 1}\n',
                r"reference\[0\]\.recall\.lungs: must be one of the classes",
            ),
        ),
    ),
    Case(
        id="C14",
        what="A layer frozen by one rule and unfrozen by another",
        expected="one policy gives each layer one rate per stage",
        moot="an experiment has one freeze policy, so two rules cannot disagree",
    ),
    Case(
        id="C15",
        what="Class names that repeat, are empty, or differ only in case or Unicode form",
        expected="3",
        faults=tuple(
            changed(name, f'data={{name="shapes", classes={classes}}}', message)
            for name, classes, message in (
                ("twice", '["a", "a"]', "must differ by more than case, got 'a' twice"),
                ("empty", '["a", ""]', "a class name must not be empty"),
                ("case", '["a", "A"]', "must differ by more than case"),
                ("Unicode", '["caf\u00e9", "cafe\u0301"]', "must differ by more than case"),
            )
        ),
    ),
    Case(
        id="C16",
        what="Class weights for an unknown class, too few, not above 0, not finite, or as a list",
        expected="3, at their key",
        faults=tuple(
            changed(name, f'class_weights={{name="fixed", weights={weights}}}', message)
            for name, weights, message in (
                ("unknown", "{a=1, bb=1}", r"class_weights\.weights: no class named 'bb'; did you"),
                ("one missing", "{a=1}", r"class_weights\.weights: .*'b'"),
                ("zero", "{a=1, b=0}", "must be finite and above 0, got 'b' = 0.0"),
                ("nan", "{a=1, b=nan}", r"class_weights\.weights\.b: must be a finite number"),
                ("a list", "[1, 2]", r"class_weights\.weights: expected a table, got \[1, 2\]"),
            )
        ),
    ),
    Case(
        id="C17",
        what="A relative path, read from another folder",
        expected="relative to the file, wherever it is read from",
        tests=(
            "test_experiment.py::test_relative_paths_are_relative_to_the_file_wherever_it_is_read_from",
        ),
    ),
    Case(
        id="C18",
        what="`~`, `$VAR`, `%VAR%` in a path",
        expected="a leading `~` is the home folder; the others are literal; no folder is created",
        faults=(
            changed(
                "variable", 'data={name="folder", path="$HOME/x"}', r"^\$HOME/x: .*not there", 4
            ),
            changed("percent", 'data={name="folder", path="%TEMP%"}', "^%TEMP%: .*not there", 4),
            changed(
                "no such user",
                'data={name="folder", path="~no_such/x"}',
                r"^data\.path|: data\.path: ",
            ),
        ),
        tests=("test_experiment.py::test_a_tilde_is_a_home_only_at_the_beginning",),
    ),
    Case(
        id="C19",
        what="The run folder is among the images",
        expected="3, because its pictures would be taken for data",
        faults=(
            Fault(
                "below train",
                ("run", "study.toml", "--out", "data/train/a/run"),
                3,
                "--out: .*data/train/a/run: is inside the image folder .*data/train",
            ),
        ),
    ),
    Case(
        id="C20",
        what="Secrets in the file",
        expected="there is no key for them, and unknown keys are refused",
        faults=(changed("token", 'fit.token="x"', r"fit\.token: unknown key"),),
    ),
    Case(
        id="C21",
        what="An older or newer file layout",
        expected="3, with the known layout",
        faults=(changed("newer", "schema=2", "schema: expected 1, got 2"),),
    ),
    Case(
        id="C22",
        what="Reading experiment.json back",
        expected="the same experiment",
        tests=(
            "properties/test_structure.py::test_an_experiment_reads_back_from_what_it_is_written_as",
        ),
    ),
    Case(
        id="C23",
        what="The file changes during the run",
        expected="no effect; the run folder has what was read",
        tests=("battery/test_runs.py::test_a_file_that_changes_meanwhile_has_no_effect",),
    ),
    Case(
        id="C24",
        what="`--set` without a value, with an unknown key, or with one key twice",
        expected="3, with the expression",
        faults=(
            changed(
                "a word", "optimizer.learning_rate=abc", "learning_rate: expected a number, got 'ab"
            ),
            changed("unknown", "nope=1", "nope: unknown key"),
            Fault(
                "twice",
                ("check", "study.toml", "--set", "seed=1", "--set", "seed=2"),
                3,
                "--set seed=2: the key is set twice",
            ),
        ),
    ),
)
