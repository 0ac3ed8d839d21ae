"""The documentation as a folder of pages that opens from disk: `python -m docs.site FOLDER`."""
