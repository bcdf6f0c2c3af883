"""Nothing that is read is run: no pickle, eval, unsafe YAML, shell or remote code.

`make lint` runs bandit at medium severity, which covers pickle, eval, exec, unsafe YAML, `torch.load` without
`weights_only`, temporary files and a shell with a command that is put together. The first test here covers it again
without bandit, and what bandit does not know: a shell with a fixed command, `np.load` with pickles, code of models.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sage_va.data import InputError
from sage_va.data.corpora.readers import read_eaf

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("data", "extract", "fusion", "demo", "commands", "benchmarks")
SOURCES = sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
MAY_PICKLE = {  # jobs and errors between the processes of one run; its exception's name
    "extract/engine/workers.py",
    "extract/engine/scheduler.py",
    "extract/encoders/weights.py",
}
RUNNING = {"eval", "exec", "compile", "__import__", "execfile", "breakpoint"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp"}
UNSAFE_YAML = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.full_load_all"}
FLAGS = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "weights_only": False}


def offences_of(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            level = getattr(node, "level", 0)
            if not level and {module.split(".")[0] for module in modules} & PICKLES and name not in MAY_PICKLE:
                yield f"{name}:{node.lineno} imports {modules}"
        elif isinstance(node, ast.Call):
            yield from (f"{name}:{node.lineno} {offence}" for offence in offences_in(node))


def offences_in(call: ast.Call) -> Iterator[str]:
    function = ast.unparse(call.func)
    keywords = {word.arg: word.value for word in call.keywords}
    if function in RUNNING | SHELLS | UNSAFE_YAML:
        yield function
    if function == "torch.load" and "weights_only" not in keywords:
        yield "torch.load without weights_only"
    for flag, value in FLAGS.items():
        constant = keywords.get(flag)
        if constant is not None and getattr(constant, "value", value) == value:
            yield f"{function}({flag}={value})"


def test_nothing_that_is_read_is_run() -> None:
    assert not [offence for path in SOURCES for offence in offences_of(path)]


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "os.system('x')",
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "subprocess.run('x', shell=True)",
        "np.load(path, allow_pickle=True)",
        "load(path, allow_pickle=flag)",
        "M.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_each_kind_is_noticed(line: str) -> None:
    (statement,) = ast.parse(line).body
    assert list(offences_in(statement.value))  # type: ignore[attr-defined]


BILLION = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
FILES = {
    "a billion laughs": f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha">{BILLION}]><x>&i;</x>',
    "a file of this machine": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>',
    "nested": "<a>" * 50_000,
}


@pytest.mark.parametrize("kind", FILES)
def test_xml_reads_no_other_file_and_does_not_explode(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.eaf").write_text(FILES[kind], encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.eaf: no ELAN file"):
        read_eaf(tmp_path / "a.eaf")


EVIL = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass C: pass\n"


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["evil", "wav2vec2"])
def test_code_beside_a_model_is_not_run(model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers uses its own code for a type that it knows; another is refused. No question is asked on the way."""
    pytest.importorskip("transformers")
    from sage_va.extract.encoders.transformers_encoder import _load_config

    def asked(*_: object) -> str:
        raise AssertionError("a question")

    monkeypatch.setattr("builtins.input", asked)
    (tmp_path / "evil.py").write_text(EVIL, encoding="utf-8")
    classes = '"auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.C"}'
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}", {classes}}}', encoding="utf-8")
    if model_type == "evil":
        with pytest.raises(InputError, match="expected a directory of a transformers model"):
            _load_config(str(tmp_path))
    else:
        assert type(_load_config(str(tmp_path))).__module__.startswith("transformers.")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_pickle_in_weights_is_not_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("timm")
    from sage_va.extract.encoders.weights import load_state

    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": Evil()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="code in a pickle is never run"):
        load_state(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()
