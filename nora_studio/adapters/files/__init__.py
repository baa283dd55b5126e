"""Adapter files that work everywhere: seed files, portable LoRAs, and what other tools write.

adapter_file  an adapter opened: what it is, its card, its words, its weights when asked
card          what a reader must know of an adapter
updates       an adapter's change of each weight as exact low-rank factors
names         what each tool calls a layer
portable      LoRA files in diffusers' and in Kohya's keys
seed          NoRA's small file: the outer factors are found again in the base
identify      tell what kind of adapter a file holds, by its header
metadata      what travels in a file's header
"""
