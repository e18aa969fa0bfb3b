"""Loads trained models (`cl_lightning.load`) and exports them (`cl-lightning export RUN --format=NAME`).

Each format is a module with `export(request, out)`, which writes into the empty folder `out` and returns the lines to
print.
"""

#: Format names and their modules. A module is imported when its format is chosen.
FORMATS = {
    "peft": "cl_lightning.export.peft",
    "merged": "cl_lightning.export.merged",
    "gguf": "cl_lightning.export.gguf",
    "native": "cl_lightning.export.native",
}
