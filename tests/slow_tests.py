"""The exhaustive tests: what `pytest` leaves out, and `pytest -m slow` and continuous integration run.

Of each kind the plain run keeps some: one fault of each rung of attention, one thread order, one
lesson of each subject. A pattern that fits no test fails tests/test_slow_tests.py.
"""

from __future__ import annotations

import re
from pathlib import Path

# Regular expressions that are searched for in the id of a test, tests/FILE.py::NAME[PARAMETERS].
PATTERNS = (
    # attention's kernels: all faults, all shapes, all orders
    r"kernels/test_attention\.py::test_planted_fault_is_noticed\["
    r"(?!naive: the diagonal|tiled: barrier in a branch|online: no barrier|flash: no barrier|tensor cores: the copy)",
    r"kernels/test_attention\.py::test_check_mode_reports_nothing\[(?!.*-1-2-1-(35|65)-|naive|tiled)",
    r"kernels/test_attention\.py::test_every_rung_agrees_with_numpy_in_float64\[(descending|shuffled)-",
    r"kernels/test_attention\.py::test_every_rung_agrees_with_numpy_in_float64\[ascending-.*-(1-1-1-1000-64|2-2-1-66-96-|1-1-1-100-128-)",
    r"kernels/test_attention\.py::test_same_input_same_bits\[.*-(1-1-1-1000-64|1-4-2-257-32-|2-2-1-66-96-)",
    # launches on other kinds of GPUs, compiled for each
    r"kernels/test_smaller_gpus\.py::test_every_launch_is_granted\[.*-widths[1-4]",
    # training on simulated kernels: the other thread orders, the second model
    r"kernels/test_training\.py::test_the_same_seed_gives_the_same_bits\[(?!cuda)",
    r"kernels/test_training\.py::test_a_model_trains_as_with_numpy\[(descending|shuffled)",
    r"kernels/test_training\.py::test_a_model_trains_as_with_numpy\[ascending-settings1",
    # the other compiler, with a runtime of its own
    r"kernels/test_wider_door\.py::test_clang_in_the_place_of_gcc",
    # mutants of more kernels
    r"kernels/test_kernel_mutants\.py::test_more_kernels",
    # every function of CuPy's with every type
    r"kernels/test_cupy_functions\.py::test_the_kernels_of_all_types_compile",
    r"kernels/test_simulator_stops\.py::test_loops_that_wait_for_ever\[run-never_(added|set)",
    # whole models: further settings of an architecture, further faults, LoRA on a second architecture
    r"models/test_gradients\.py::test_gradients_of_a_model\[(gpt2, untied, bias, dr|qwen2, tied|qwen3, tied)",
    r"models/test_gradients\.py::test_gradients_of_a_model\[mistral, (window of 2|no)",
    r"checks/test_complex_step\.py::test_every_tensor_of_the_models_to_twelve_digits\[(?!gpt2, tied, bias, no|qwen3, tied)",
    r"checks/test_complex_step\.py::test_every_layer\[(documents|recompute|preference|rotary_attention)",
    r"layers/test_documents\.py::test_gradients_of_a_model\[(GPT-2, recomputed|Llama|Qwen)",
    r"models/test_preference\.py::test_gradients\[(conservative|DPO of a (Qwen2|Mistral))",
    r"models/test_preference\.py::test_on_a_device\[bfloat16",
    r"training/test_preferences\.py::test_interrupted_and_resumed_is_the_same_bit_for_bit\[gpt2-\{'gradient",
    r"training/test_preferences\.py::test_on_the_simulator\[gpt2-float32",
    r"models/test_llama\.py::test_faults_are_caught\[(run_blocks|return dx)",
    r"models/test_fine_tuning\.py::test_gradients\[llama\]",
    r"training/test_fine_tuning\.py::test_(lora_runs|interrupted_and_resumed_is_the_same_bit_for_bit)\[llama",
    r"training/test_full_disk\.py::test_a_run_goes_on_after_a_full_disk\[(100|1500|3000|8000|30000)\]",
    r"profiling/test_profile\.py::test_kernels_are_named_and_their_operations_counted\[fields1",
    # inspection: every gradient of a second model, faults in more places
    r"inspection/test_inspection\.py::TestNumbers::test_every_gradient_passes_its_check\[llama\]",
    r"inspection/test_inspection\.py::TestFaults::test_localised\[minillm\.layers\.(gelu|layer_norm|linear)-",
    # the whole matrix of ranks, processes and threads
    r"distributed/test_equal_bits\.py::test_fifty_steps",
    r"distributed/test_nccl\.py::test_training_on_several_simulated_gpus",
    r"training/test_resumed_ranks\.py::test_every_kind",
    # the command line in processes of its own
    r"cli/test_streams\.py::test_what_the_output_cannot_show_is_replaced\[(ascii|latin-1|utf-8)\]",
    r"cli/test_streams\.py::test_an_output_that_is_full_or_closed\[(tokenizer|info|generate run --max-tokens 2-1)",
    r"cli/test_inspect\.py::test_a_wrong_gradient_is_exit_code_1",
    r"cli/test_on_a_gpu\.py::test_a_model_is_changed\[(?!lora-tf32-qwen3|chat-bfloat16-llama|preferences-float32-gpt2)",
    r"cli/test_lesson\.py::test_a_lesson_by_name_and_by_number_is_the_same",
    # texts as frequent as they should be: more settings, more faults
    r"generation/test_speculative\.py::test_texts_are_as_frequent_as_the_target_makes_them\[.*setting[123]\]",
    r"generation/test_speculative\.py::test_wrong_(frequencies|numbers_and_histories)_are_noticed\[(?!accepts always)",
    # fresh models: the widest
    r"checks/test_gradcheck_fresh\.py::test_fresh_models_pass\[(gpt2-8-1|llama-8-3)\]",
    r"checks/test_gradcheck_fresh\.py::test_an_error_in_the_sixth_digit_of_a_fresh_model_is_seen\[-",
    # all commands for a machine with a GPU, in processes of their own
    r"test_on_a_gpu\.py::test_each_command_of_a_piece_runs",
    # lessons that train, or run many kernels
    r"lessons/test_(one_page|cross_entropy|kernel|muon|chat|preferences|wrong_gradient)\.py::test_what_the_lesson_claims",
    r"lessons/test_overfitting\.py::test_a_run_is_the_same_each_time",
    r"lessons/test_greedy_or_sampling\.py::test_a_sentence_of_the_readers_own_is_continued",
    # thousands of texts, thousands of damaged files: fewer kinds in the plain run
    r"tokenizers/test_byte_pair\.py::test_the_same_ids_as_tiktoken_on_10000_texts",
    r"tokenizers/test_byte_pair\.py::test_what_we_train_gives_the_same_ids_in_tokenizers_and_tiktoken\[cl100k\]",
    r"tokenizers/test_byte_pair\.py::test_smollm_cuts_as_its_tokenizer_json_does",
    r"pretrained/test_fuzz\.py::test_damaged_files\[(gguf|tokenizer\.bin)\]",
    # memory as it is measured, in every way to train
    r"profiling/test_memory\.py::test_close_with_kernels\[(gpt2, (checkpointing|heads|bfloat16|dropout)|llama, )",
    r"profiling/test_memory\.py::test_close_to_what_numpy_counts\[.*checkpointing\]",
    # pages whose commands compile many kernels, or train
    r"docs/test_pages\.py::test_page\[docs/(adding|cuda|simulator)\.md\]",
)
SLOW = re.compile("|".join(PATTERNS))
FILES = re.compile("|".join(f"{pattern.partition('::')[0]}$" for pattern in PATTERNS))


def may_have_slow_tests(path: Path, text: str) -> bool:
    """Whether a pattern names the file, or its text marks tests itself."""
    return bool(FILES.search(path.as_posix())) or "mark.slow" in text
