# Generated from operator/finetune_operator/api/signatures/model.py: do not edit.
"""Failures of weights, tokenizers, chat templates and data."""

from __future__ import annotations

from .signature import Signature

MODEL = (
    Signature(
        "SafetensorsTorn",
        "ModelLoad",
        r"Error while deserializing header|is no whole safetensors file",
        "A weights file is not whole, or no safetensors file at all (a Git LFS pointer, an error "
        "page).",
        "copy the model to its place again, with git lfs pull where it comes from a clone",
        "safetensors",
    ),
    Signature(
        "WeightsMismatch",
        "ModelLoad",
        r"size mismatch for \S{1,200}: copying a param|ignore_mismatched_sizes"
        r"|Missing key\(s\) in state_dict|Unexpected key\(s\) in state_dict",
        "The weights do not fit the architecture in config.json.",
        "check that config.json and the weights of spec.model.uri belong together",
        "PyTorch and transformers",
    ),
    Signature(
        "UnknownArchitecture",
        "ModelLoad",
        r"does not recognize this architecture|Unrecognized model in ",
        "The transformers of the trainer image do not know this kind of model.",
        "use a trainer image with newer transformers, or another spec.model.uri",
        "transformers",
    ),
    Signature(
        "RemoteCode",
        "ModelLoad",
        r"contains custom code which must be executed|requires you to execute"
        r"|set the option `trust_remote_code=True`",
        "The model brings program code of its own, which is never run here.",
        "choose a model whose architecture transformers knows by itself",
        "transformers",
    ),
    Signature(
        "NoWeights",
        "ModelLoad",
        r"Error no file named \S{1,100}(?:safetensors|\.bin)",
        "There are no weights where the model should lie.",
        "check the path in spec.model.uri: the folder holds config.json and *.safetensors",
        "transformers",
    ),
    Signature(
        "TokenizerBroken",
        "ModelLoad",
        r"Can't load tokenizer for|Couldn't instantiate the backend tokenizer"
        r"|did not match any variant of untagged enum|the tokenizer cannot be loaded",
        "The tokenizer's files are missing, torn, or of a form that this library does not know.",
        "put tokenizer.json and tokenizer_config.json of the model beside its weights",
        "transformers and tokenizers",
    ),
    Signature(
        "ChatTemplateMissing",
        "BadData",
        r"chat_template is not set|has no chat template",
        "The data are conversations, and the model has no template to write them with.",
        "name one in spec.model.chatTemplate, or start from an instruct model",
        "transformers",
        ("ModelLoad",),
    ),
    Signature(
        "ChatTemplateRefused",
        "BadData",
        r"jinja2\.exceptions\.\w{1,40}(?:Error|NotFound)|Conversation roles must alternate"
        r"|roles must alternate|\bTemplateSyntaxError\b|the chat template refuses it",
        "The chat template does not accept a conversation of the data, or has an error itself.",
        "correct the roles in the data, or the template in spec.model.chatTemplate",
        "jinja2, by transformers and the model's template",
        ("ModelLoad",),
    ),
    Signature(
        "PaddingToken",
        "ModelLoad",
        r"[Aa]sking to pad but the tokenizer does not have a padding token",
        "The tokenizer knows no padding token.",
        "set pad_token in tokenizer_config.json beside the weights of spec.model.uri",
        "transformers",
    ),
    Signature(
        "TokenOutOfRange",
        "Internal",
        r"IndexError: index out of range in self",
        "A token id is not in the model's vocabulary.",
        "check that the tokenizer beside spec.model.uri belongs to that model",
        "PyTorch, torch.embedding",
    ),
    Signature(
        "LoraTargets",
        "ConfigInvalid",
        r"Target modules .{1,400} not found in the base model",
        "The model has no layers of the names that LoRA shall change.",
        "correct spec.method.lora.targetModules, or leave it out",
        "peft",
    ),
    Signature(
        "DataUnreadable",
        "BadData",
        r"Parquet magic bytes not found|ArrowInvalid|JSON parse error|DatasetGenerationError"
        r"|UnicodeDecodeError: 'utf-8' codec",
        "A data file is torn, or not of the format that its name says.",
        "look at the file and line of the message; write JSON lines in UTF-8, or Parquet",
        "pyarrow, datasets and Python",
    ),
)
