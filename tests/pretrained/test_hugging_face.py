import builtins
import json
import shutil

import numpy as np
import pytest
from folder_files import saved, shard

import minillm
from minillm.backend.random_streams import stream
from minillm.errors import MissingExtra, UserError
from minillm.pretrained import hub as huggingface

IDS = np.arange(8)[None]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_shards(tmp_path, kind):
    model = saved(tmp_path, kind)
    shard(tmp_path)
    assert (minillm.from_pretrained(tmp_path).forward(IDS) == model.forward(IDS)).all()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_half_precision_is_expanded(tmp_path, kind):
    model = saved(tmp_path, kind)
    shard(tmp_path, np.float16)
    for dtype in ("float32", "float64"):
        opened = minillm.from_pretrained(tmp_path, dtype)
        for name, parameter in opened.parameters().items():
            expected = model.parameters()[name].value.astype(np.float16)
            assert parameter.value.dtype == dtype and (parameter.value == expected).all()


def test_weights_are_mapped_and_the_file_is_safe_from_training(tmp_path):
    saved(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model = minillm.from_pretrained(tmp_path)
    assert not any(parameter.value.flags.owndata for parameter in model.parameters().values())
    model.train().loss(IDS, IDS)
    model.backward()
    minillm.AdamW(model.parameters(), lr=0.1).step()
    assert (tmp_path / "model.safetensors").read_bytes() == before


def change_index(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda m: m.update(extra="../outside.safetensors"),
            r"names '../outside.safetensors', which is no safetensors",
        ),
        (lambda m: m.update(extra="model.bin"), "which is no safetensors file"),
        (lambda m: m.update(extra="gone.safetensors"), "gone.safetensors is missing"),
        (lambda m: m.update(extra="model-00001-of-00002.safetensors"), "tensor 'extra' is missing"),
        (lambda m: m.pop("model.norm.weight"), "which model.safetensors.index.json does not say"),
        (lambda m: m.update(extra=["x"]), "weight_map is not an object"),
    ],
)
def test_broken_indexes(tmp_path, change, message):
    saved(tmp_path)
    shard(tmp_path)
    change_index(tmp_path, change)
    with pytest.raises(UserError, match=message):
        minillm.from_pretrained(tmp_path)


@pytest.mark.parametrize("sharded", [False, True])
def test_links_out_of_the_folder(tmp_path, sharded):
    folder = tmp_path / "model"
    saved(folder)
    name = shard(folder)["model.norm.weight"] if sharded else "model.safetensors"
    shutil.move(folder / name, tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=f"{name} is a link that leads out of the folder, to .*secret"):
        minillm.from_pretrained(folder)


def test_the_cache_of_the_hub_links_to_its_blobs(tmp_path):
    folder = tmp_path / "models--a--b" / "snapshots" / "0123"
    model = saved(folder)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    shutil.move(folder / "model.safetensors", tmp_path / "models--a--b" / "blobs" / "abc")
    (folder / "model.safetensors").symlink_to("../../blobs/abc")
    assert (minillm.from_pretrained(folder).forward(IDS) == model.forward(IDS)).all()


def test_a_link_to_the_folder_is_fine(tmp_path):
    saved(tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    minillm.from_pretrained(tmp_path / "link")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model.bin.index.json"])
def test_pickles_are_refused(tmp_path, name):
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    with pytest.raises(UserError, match="as a pickle .* get the model in safetensors format"):
        minillm.from_pretrained(tmp_path)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02}"])
def test_pickle_files_are_refused(tmp_path, start):
    (tmp_path / "model.pt").write_bytes(start + b"0" * 50)
    with pytest.raises(UserError, match="is a pickle, .* in safetensors format"):
        minillm.from_pretrained(tmp_path / "model.pt")


def test_absurd_sizes_allocate_nothing(tmp_path):
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for field, value in [("vocab_size", 1 << 27), ("intermediate_size", 1 << 28), ("max_position_embeddings", 1 << 28)]:
        (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
        if field == "max_position_embeddings":  # a Llama has no table of positions: nothing is wrong
            assert minillm.from_pretrained(tmp_path).forward(IDS).shape == (1, 8, 11)
        else:
            with pytest.raises(UserError, match="config.json calls for"):
                minillm.from_pretrained(tmp_path)


def test_deep_json(tmp_path):
    saved(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="config.json is not valid JSON"):
        minillm.from_pretrained(tmp_path)


def test_a_safetensors_file_alone_is_not_a_model(tmp_path):
    saved(tmp_path)
    with pytest.raises(UserError, match="holds weights only: name its folder"):
        minillm.from_pretrained(tmp_path / "model.safetensors")


class TestHub:
    def test_names(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert huggingface.looks_like_hub_name("HuggingFaceTB/SmolLM2-135M")
        (tmp_path / "runs").mkdir()
        for name in ("nothing", "runs/default-9", "/a/b", "a/b/c", "../b", "a/..", "~/model", "./model"):
            assert not huggingface.looks_like_hub_name(name)

    def test_a_name_is_fetched_with_its_revision(self, tmp_path, monkeypatch):
        hub = pytest.importorskip("huggingface_hub")
        model, calls = saved(tmp_path), []

        def snapshot_download(name, **settings):
            calls.append((name, settings))
            return str(tmp_path)

        monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
        opened = minillm.from_pretrained("owner/model", revision="0123")
        assert (opened.forward(IDS) == model.forward(IDS)).all()
        assert calls[0][0] == "owner/model" and calls[0][1]["revision"] == "0123"
        assert not any(pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in calls[0][1]["allow_patterns"])

    def test_offline(self, tmp_path, monkeypatch):
        hub = pytest.importorskip("huggingface_hub")
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(UserError, match="cannot be reached .*hf download owner/model --local-dir FOLDER"):
            minillm.from_pretrained("owner/model")

    def test_without_the_package(self, monkeypatch):
        real = builtins.__import__

        def without(name, *arguments, **settings):
            if name.startswith("huggingface_hub"):
                raise ImportError(name)
            return real(name, *arguments, **settings)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(MissingExtra, match=r'pip install "minillm\[hub\]"'):
            minillm.from_pretrained("owner/model")


WEIRD = [None, True, -1, 0, 7, 2**70, 0.5, -1e-3, float("inf"), float("nan"), "x", "", [], [[]], {}, {"a": 1}, 10**400]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_weird_values_in_config_json(tmp_path, kind):
    """Every field with values of every type: opened, or a UserError that names the file."""
    saved(tmp_path, kind)
    path = tmp_path / "config.json"
    config, refused = json.loads(path.read_text()), 0
    fields = {"rope_scaling", "rope_parameters", "hidden_act", "scale_attn_weights", "add_cross_attention", *config}
    for field in sorted(fields):
        for value in WEIRD:
            path.write_text(json.dumps({**config, field: value}))
            try:
                minillm.from_pretrained(tmp_path)
            except UserError as error:
                assert "config.json" in str(error)
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("value", WEIRD)
def test_weird_values_in_rope_scaling(tmp_path, value):
    saved(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    scaling = dict(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
    for field in ("rope_type", *scaling):
        path.write_text(json.dumps({**config, "rope_scaling": {"rope_type": "llama3", **scaling, field: value}}))
        try:
            minillm.from_pretrained(tmp_path).forward(IDS)
        except UserError as error:
            assert "config.json" in str(error)


def test_mutated_folders(tmp_path):
    """Thousands of changed config.json and index files: opened, or a UserError."""
    saved(tmp_path)
    shard(tmp_path)
    opened = refused = 0
    for name in ("config.json", "model.safetensors.index.json"):
        path = tmp_path / name
        original = path.read_bytes()
        for index in range(1000):
            numbers, mutated = stream("mutation", name, index), bytearray(original)
            for at in numbers.integers(len(mutated), 1 + index % 3):
                mutated[at] = ord('0123456789,[]{}:"-eE.truefalsn'[int(numbers.integers(30))])
            path.write_bytes(bytes(mutated[: int(numbers.integers(len(mutated)))] if index % 10 == 0 else mutated))
            try:
                minillm.from_pretrained(tmp_path)
                opened += 1
            except UserError:
                refused += 1
        path.write_bytes(original)
    assert opened > 20 and refused > 1000


@pytest.mark.peers
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype, shard_size", [("float32", "5GB"), ("bfloat16", "2KB"), ("float16", "5GB")])
def test_gpt2_that_transformers_saved(tmp_path, dtype, shard_size, tied):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=4, initializer_range=0.3, tie_word_embeddings=tied
    )
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).to(getattr(torch, dtype)).save_pretrained(tmp_path, max_shard_size=shard_size)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours = minillm.from_pretrained(tmp_path)
    assert ours.config.tie_embeddings == tied
    expected = theirs(torch.tensor(IDS)).logits.detach().numpy()
    assert np.abs(ours.forward(IDS) - expected).max() < 1e-5
    ours.save_pretrained(tmp_path / "again")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "again").eval()
    assert np.abs(again(torch.tensor(IDS)).logits.detach().numpy() - expected).max() < 1e-6
