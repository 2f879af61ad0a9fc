"""Every tensor and every key of a GGUF file is used or refused by its name; files that were split are joined."""

from dataclasses import replace

import numpy as np
import pytest
from model_files import GPT2, LLAMA, write_gguf

import minillm
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.layers.rotary_scaling import LinearScaling, Llama3Scaling, TableScaling
from minillm.models.rope_gguf import scaling_of_table
from minillm.pretrained import from_pretrained

gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf")
IDS = np.arange(30)[None]
PAIRS = LLAMA.head_dim // 2
THETA = 10000.0 ** (-2 * np.arange(PAIRS) / LLAMA.head_dim)


def make(config=LLAMA, **changes):
    kind = minillm.Llama if isinstance(config, minillm.LlamaConfig) else minillm.GPT2
    return randomised(kind(replace(config, **changes), seed=1), 0.3).eval()


def written(tmp_path, change, config=LLAMA, **more):
    return write_gguf(tmp_path / "m.gguf", make(config), change=change, **more)


def llama3_factors(scaling, theta):
    """As converters to GGUF compute the table, by wave lengths."""
    factors = []
    for wave in 2 * np.pi / theta:
        turns = scaling.original_max_position_embeddings / wave
        smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        if turns > scaling.high_freq_factor:
            factors.append(1.0)
        elif turns < scaling.low_freq_factor:
            factors.append(scaling.factor)
        else:
            factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize("changes", [dict(attention_bias=True), dict(mlp_bias=True), dict(tie_embeddings=True)])
def test_what_a_llama_may_have_besides(tmp_path, changes):
    model = make(**changes)
    opened = from_pretrained(write_gguf(tmp_path / "m.gguf", model))
    assert opened.config == model.config
    np.testing.assert_array_equal(opened.forward(IDS), model.forward(IDS))


def test_biases_of_some_layers_are_zero_in_the_others(tmp_path):
    model = make(attention_bias=True)
    missing = {f"blk.0.attn_{part}.bias": f"model.layers.0.self_attn.{part}_proj.bias" for part in "qv"}
    opened = from_pretrained(write_gguf(tmp_path / "m.gguf", model, leave_out=missing))
    for name in missing.values():
        model.parameters()[name].value[:] = 0
    np.testing.assert_array_equal(opened.forward(IDS), model.forward(IDS))


class TestAngles:
    def test_the_table_of_a_llama_3_is_its_scaling(self, tmp_path):
        scaling = Llama3Scaling(8.0, 1.0, 4.0, 256)
        factors = llama3_factors(scaling, THETA)
        model = make(rope_scaling=scaling)
        opened = from_pretrained(
            write_gguf(tmp_path / "m.gguf", model, change=lambda w: w.add_tensor("rope_freqs.weight", factors))
        )
        assert opened.config.rope_scaling == scaling
        np.testing.assert_array_equal(opened.forward(IDS), model.forward(IDS))

    def test_published_llama_3(self):
        """Llama 3.1 and 3.2: heads of 128 and 64 on a base of 500,000."""
        for width, factor in ((128, 8.0), (64, 32.0)):
            theta = 500_000.0 ** (-2 * np.arange(width // 2) / width)
            scaling = Llama3Scaling(factor, 1.0, 4.0, 8192)
            assert scaling_of_table(llama3_factors(scaling, theta), theta, 500_000.0) == scaling

    def test_a_table_of_no_known_kind(self, tmp_path):
        factors = np.linspace(1, 3, PAIRS).astype(np.float32)
        opened = from_pretrained(written(tmp_path, lambda w: w.add_tensor("rope_freqs.weight", factors)))
        assert isinstance(opened.config.rope_scaling, TableScaling)
        model = make(rope_scaling=TableScaling(tuple(map(float, factors))))
        np.testing.assert_allclose(opened.forward(IDS), model.forward(IDS), atol=1e-5)
        opened.save_pretrained(tmp_path / "folder")
        np.testing.assert_array_equal(from_pretrained(tmp_path / "folder").forward(IDS), opened.forward(IDS))

    def test_a_table_of_ones_and_a_type_that_turns_the_factor_off(self, tmp_path):
        def change(writer):
            writer.add_tensor("rope_freqs.weight", np.ones(PAIRS, np.float32))
            writer.add_string("llama.rope.scaling.type", "none")
            writer.add_float32("llama.rope.scaling.factor", 4.0)

        assert from_pretrained(written(tmp_path, change)).config == LLAMA

    @pytest.mark.parametrize("key", ["llama.rope.scaling.factor", "llama.rope.scale_linear"])
    @pytest.mark.parametrize("kind", [None, "linear"])
    def test_linear(self, tmp_path, key, kind):
        def change(writer):
            writer.add_float32(key, 4.0)
            if kind:
                writer.add_string("llama.rope.scaling.type", kind)

        opened = from_pretrained(written(tmp_path, change))
        assert opened.config.rope_scaling == LinearScaling(4.0)
        np.testing.assert_array_equal(opened.forward(IDS), make(rope_scaling={"factor": 4.0}).forward(IDS))
        assert np.abs(opened.forward(IDS) - make().forward(IDS)).max() > 0.1

    def test_a_factor_and_a_table_divide_together(self, tmp_path):
        def change(writer):
            writer.add_float32("llama.rope.scaling.factor", 4.0)
            writer.add_tensor("rope_freqs.weight", np.full(PAIRS, 2, np.float32))

        assert from_pretrained(written(tmp_path, change)).config.rope_scaling == LinearScaling(8.0)


@pytest.mark.parametrize(
    "method, key, value, words",
    [
        ("add_string", "llama.attention.sliding_window", "8", "sliding_window is '8'"),
        ("add_uint32", "llama.expert_count", 8, "mixture of experts"),
        ("add_float32", "llama.final_logit_softcapping", 30.0, "final_logit_softcapping"),
        ("add_float32", "llama.attn_logit_softcapping", 50.0, "attn_logit_softcapping"),
        ("add_float32", "llama.attention.scale", 0.5, "attention.scale"),
        ("add_float32", "llama.logit_scale", 0.25, "logit_scale"),
        ("add_float32", "llama.embedding_scale", 12.0, "embedding_scale"),
        ("add_float32", "llama.residual_scale", 0.2, "residual_scale"),
        ("add_float32", "llama.rope.scaling.attn_factor", -1.2, "attn_factor is -1.2, expected a number above 0"),
        ("add_float32", "llama.rope.scaling.yarn_log_multiplier", 0.1, "yarn_log_multiplier"),
        ("add_uint32", "llama.attention.value_length", 8, "value_length"),
        ("add_uint32", "llama.pooling_type", 1, "pooling_type"),
        ("add_bool", "llama.attention.causal", False, "attention.causal"),
        ("add_bool", "llama.use_parallel_residual", True, "use_parallel_residual"),
        ("add_string", "llama.something.new", "x", "llama.something.new"),
        ("add_string", "llama.rope.scaling.type", "longrope", "rope_factors_short.weight is missing"),
        ("add_string", "llama.rope.scaling.type", "dynamic", "scaling of the type 'dynamic'"),
        ("add_string", "general.type", "adapter", 'of the type "adapter"'),
        ("add_string", "general.type", "mmproj", 'of the type "mmproj"'),
    ],
)
def test_keys_that_change_the_computation_are_refused(tmp_path, method, key, value, words):
    with pytest.raises(UserError, match=words):
        from_pretrained(written(tmp_path, lambda w: getattr(w, method)(key, value)))


def test_keys_that_change_nothing(tmp_path):
    def change(writer):
        writer.add_uint32("llama.vocab_size", LLAMA.vocab_size)
        writer.add_uint32("llama.attention.key_length", LLAMA.head_dim)
        writer.add_uint32("llama.attention.value_length", LLAMA.head_dim)
        writer.add_uint32("llama.attention.sliding_window", LLAMA.context_length)
        writer.add_uint32("llama.expert_count", 0)
        writer.add_float32("llama.attention.scale", LLAMA.head_dim**-0.5)
        writer.add_float32("llama.logit_scale", 1.0)
        writer.add_bool("llama.rope.scaling.finetuned", False)
        writer.add_string("llama.tensor_data_layout", "Meta AI original pth")
        writer.add_string("general.type", "model")
        writer.add_string("somebody.wrote.this", "x")

    assert from_pretrained(written(tmp_path, change)).config == LLAMA


@pytest.mark.parametrize(
    "name, words",
    [
        ("blk.0.attn_q_norm.weight", "norms on its heads"),
        ("blk.1.ffn_gate_inp.weight", "mixture of experts"),
        ("blk.1.ffn_up_exps.weight", "mixture of experts"),
        ("blk.1.ffn_up.3.weight", "mixture of experts"),
        ("blk.0.attn_norm.bias", "attn_norm.bias .*belongs to no part of a llama"),
        ("blk.0.attn_q.scale", "attn_q.scale"),
        ("blk.2.attn_q.weight", "blk.2.attn_q.weight"),
        ("rope_factors_long.weight", "longrope"),
        ("output.bias", "output.bias"),
        ("anything at all", "anything at all"),
        ("blk.0.attn_q.weight.lora_a", "is a LoRA"),
    ],
)
def test_tensors_that_nothing_uses_are_refused(tmp_path, name, words):
    with pytest.raises(UserError, match=words):
        from_pretrained(written(tmp_path, lambda w: w.add_tensor(name, np.ones(16, np.float32))))


def test_a_tensor_too_many_in_a_gpt2(tmp_path):
    with pytest.raises(UserError, match="rope_freqs.weight belongs to no part of a gpt2"):
        from_pretrained(written(tmp_path, lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32)), GPT2))


def test_a_vocabulary_alone(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "llama")
    writer.add_block_count(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="should have 2 blocks, and has no tensor"):
        from_pretrained(tmp_path / "v.gguf")


def patch_type(path, name, kind):
    """Overwrite the type of a vector in the header."""
    data = path.read_bytes()
    at = data.index(name.encode()) + len(name) + 4 + 8
    path.write_bytes(data[:at] + kind.to_bytes(4, "little") + data[at + 4 :])


@pytest.mark.parametrize("kind, words", [(4, "Q4_2, which llama.cpp has given up"), (31, "Q4_0_4_4"), (99, "99")])
def test_types_that_are_not_known(tmp_path, kind, words):
    path = written(tmp_path, None)
    patch_type(path, "output_norm.weight", kind)
    with pytest.raises(UserError, match=words):
        from_pretrained(path)


class TestSplitFiles:
    @pytest.fixture
    def parts(self, tmp_path):
        """The names of a file in three parts, and its model."""
        model, folder = make(), tmp_path / "parts"
        folder.mkdir()
        original = gguf.GGUFWriter.__init__

        def splitting(writer, path, architecture):
            original(writer, path, architecture, split_max_tensors=8)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gguf.GGUFWriter, "__init__", splitting)
            write_gguf(folder / "m.gguf", model)
        return sorted(folder.iterdir()), model

    def test_they_are_joined(self, parts):
        files, model = parts
        assert [path.name for path in files] == [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
        for path in (files[0], files[2]):
            np.testing.assert_array_equal(from_pretrained(path).forward(IDS), model.forward(IDS))

    def test_a_part_is_missing(self, parts):
        files, _ = parts
        files[1].unlink()
        with pytest.raises(
            UserError, match="one of 3 parts of a split GGUF file, and .*00002-of-00003.gguf is missing"
        ):
            from_pretrained(files[0])

    def test_a_part_of_another_name(self, parts):
        files, _ = parts
        files[0].rename(files[0].with_name("model.gguf"))
        with pytest.raises(UserError, match="one of 3 parts of a split GGUF file: put the others beside it"):
            from_pretrained(files[0].with_name("model.gguf"))

    def test_parts_in_another_order(self, parts):
        files, _ = parts
        files[1].write_bytes(files[2].read_bytes())
        with pytest.raises(UserError, match="is not part 2 of 3: it says part 2"):
            from_pretrained(files[0])
