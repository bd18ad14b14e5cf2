"""Files and folders of other projects: each kind in one module, which reads it as `Contents`."""
