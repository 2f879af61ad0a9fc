"""The names of the files in a model folder, as Hugging Face lays it out."""

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
GENERATION_FILE = "generation_config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
