# Read by JupyterLab after the user's own configuration, which may have taken the token away.
import os

c = get_config()
c.IdentityProvider.token = os.environ["JUPYTER_TOKEN"]
