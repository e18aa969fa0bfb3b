"""The trained model: used (`cl_lightning.load`), and written in formats (`cl-lightning export RUN --format=NAME`).

Each format is a module with `export(request, out)`, which writes into the empty folder `out` and returns what the user
is told, a line each.
"""

#: Formats by name: the module that writes one. Nothing is imported before a format is chosen.
FORMATS = {
    "peft": "cl_lightning.export.peft",
    "merged": "cl_lightning.export.merged",
    "gguf": "cl_lightning.export.gguf",
    "native": "cl_lightning.export.native",
}
