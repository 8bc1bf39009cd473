"""Files of weights that are damaged, hostile, or of another network."""

import collections
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from tracekit.backends.foreign.safe_weights import load_state, read_checkpoint, read_state

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.tensor([0.5, -1.0])}


class Touch:
    """What unpickling it runs: a file appears."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def in_our_words(error):
    """One line, without what torch says of the file: above all not how to read it unsafely."""
    return "\n" not in str(error) and not re.search("torch.load|weights_only|PyTorch|Errno|: $", str(error))


class Network(torch.nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(width, 2)


def assert_same(found):
    assert set(found) == set(STATE)
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_a_state_dict_is_read_in_every_form_it_comes_in(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    assert_same(read_state(tmp_path / "model.safetensors"))
    for number, holding in enumerate(
        (STATE, collections.OrderedDict(STATE), {"model": STATE, "epoch": 3}, {"state_dict": STATE}, {"weight": STATE})
    ):
        torch.save(holding, tmp_path / f"{number}.pt")
        assert_same(read_state(tmp_path / f"{number}.pt"))
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(read_state(tmp_path / "old.pth"))


@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"model": STATE, "extra": evil}, lambda evil: {**STATE, "evil": evil}])
@pytest.mark.parametrize("write", [torch.save, lambda data, path: path.write_bytes(pickle.dumps(data))])
def test_a_pickle_with_code_is_refused_and_its_code_is_not_run(tmp_path, wrap, write):
    mark, path = tmp_path / "mark", tmp_path / "weights.pt"
    write(wrap(Touch(mark)), path)
    with pytest.raises(ValueError, match=r"weights.pt: not a file of weights") as caught:
        read_state(path)
    assert not mark.exists() and in_our_words(caught.value)
    if write is torch.save:
        assert "more than tensors (" in str(caught.value) and "open)" in str(caught.value)


def test_classes_that_are_named_as_harmless_are_neither_imported_nor_run(tmp_path, monkeypatch):
    module = tmp_path / "theirs.py"
    module.write_text("class Config:\n    def __setstate__(self, state):\n        open(state['mark'], 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    import theirs

    config = theirs.Config()
    config.mark = str(tmp_path / "mark")
    torch.save({"cfg": config, "weight": STATE}, tmp_path / "weights.pt")
    found = read_checkpoint(tmp_path / "weights.pt", inert=["theirs.Config"])
    assert found["cfg"].__dict__ == {"mark": config.mark}
    assert type(found["cfg"]) is not theirs.Config
    assert not (tmp_path / "mark").exists()
    with pytest.raises(ValueError, match="not a file of weights alone"):
        read_checkpoint(tmp_path / "weights.pt", inert=["theirs.Other"])


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_truncated_or_foreign_file_is_refused_by_its_name(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(STATE, path)
    else:
        save_file(STATE, path)
    whole = path.read_bytes()
    for content in (
        whole[: len(whole) // 2],
        whole[:-3],
        b"",
        b"<html>404: Not Found</html>",
        b"version https://git-lfs.github.com/spec/v1\n",
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="the file is empty" if not content else "or damaged or cut short") as caught:
            read_state(path)
        assert name in str(caught.value) and in_our_words(caught.value)


@pytest.mark.parametrize("holding", [[1, 2], {"epoch": 3}, {}, {"model": {}}, {"model": {"layer": {"weight": torch.zeros(1)}}}])
def test_what_holds_no_named_tensors_is_refused(tmp_path, holding):
    torch.save(holding, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights.pt: it holds something else"):
        read_state(tmp_path / "weights.pt")


def test_a_torch_that_cannot_read_pickles_safely_is_not_asked_to(tmp_path, monkeypatch):
    torch.save(STATE, tmp_path / "weights.pt")
    save_file(STATE, tmp_path / "weights.safetensors")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu124")
    monkeypatch.setattr(torch, "load", lambda *arguments, **named: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"torch 2.5.1\+cu124 cannot read .*safetensors"):
        read_state(tmp_path / "weights.pt")
    assert_same(read_state(tmp_path / "weights.safetensors"))


def test_weights_must_fit_in_name_and_shape():
    network = Network()
    load_state(network, STATE, "w.pt")
    assert torch.equal(network.layer.weight.data, STATE["layer.weight"])
    many = {f"other{number}.{'x' * 300}": torch.zeros(1) for number in range(50)}
    for network, wrong, reason in (
        (Network(), {"layer.weight": STATE["layer.weight"]}, "1 missing (layer.bias)"),
        (Network(), {**STATE, "head.weight": torch.zeros(1)}, "1 without a place (head.weight)"),
        (Network(), {"\x1b[2J": torch.zeros(1)}, r"2 missing (layer.weight, layer.bias); 1 without a place ('\x1b[2J')"),
        (Network(), {**STATE, "layer.bias": 3}, "1 of another shape (layer.bias (), not (2,))"),
        (Network(4), STATE, "1 of another shape (layer.weight (2, 3), not (2, 4))"),
        (Network(), {**STATE, **many}, f"50 without a place (other0.{'x' * 93}, other1.{'x' * 93}, ...)"),
    ):
        with pytest.raises(ValueError) as caught:
            load_state(network, wrong, "w.pt")
        assert str(caught.value) == f"w.pt: these are not the weights of Network: {reason}"


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    with pytest.raises(ValueError, match=r"gone.pt: it cannot be read: No such file"):
        read_state(tmp_path / "gone.pt")


def test_a_pickle_of_another_protocol_makes_no_noise(tmp_path, recwarn):
    (tmp_path / "weights.pt").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    with pytest.raises(ValueError, match=r"weights.pt: not a file of weights"):
        read_state(tmp_path / "weights.pt")
    assert not recwarn.list
