"""Adapter files: this project's folders and seed files, portable LoRAs, and other tools' files.

adapter_file     an opened adapter: its kind, its card, and its weights on demand
adapter_folders  write, load and resume from adapter folders
card             what has to be known of an adapter before it is loaded
embeddings       the vectors of new tokens
extraction       fit a NoRA to the difference of two models
hotswap          replace a NoRA's tensors in place
identify         identify the kind of adapter in a file by its header
inspection       measure what an adapter changes, without a model
metadata         the metadata in a portable file's header
model_card       the page of an adapter on the Hub
names            what each tool calls a layer
outer            regenerate NoRA's outer factors, and check them
peft_settings    PEFT's configuration, checked before PEFT reads it
portable         LoRA files in diffusers' and in Kohya's keys
seed             NoRA's small file, whose outer factors are regenerated from the base
seed_reading     read seed files
updates          an adapter's change of each weight as low-rank factors
"""
