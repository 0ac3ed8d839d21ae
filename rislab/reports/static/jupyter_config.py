# Read by JupyterLab after the user's own configuration, which may have taken the token away.
import atexit
import os
import shutil
import tempfile
from pathlib import Path

from jupyter_core.paths import jupyter_config_dir

from rislab.plots.style import theme_css

c = get_config()
c.IdentityProvider.token = os.environ["JUPYTER_TOKEN"]
# Plain figures follow the theme where no panel was shown yet; a style of the user's own comes first.
folder = tempfile.mkdtemp(prefix="rislab-")
atexit.register(shutil.rmtree, folder, ignore_errors=True)
Path(folder, "custom.css").write_text(theme_css())
c.LabApp.custom_css = True
c.ServerApp.tornado_settings.update({"static_custom_path": [os.path.join(jupyter_config_dir(), "custom"), folder]})
