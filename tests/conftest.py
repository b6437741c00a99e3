import os
import tempfile

# Before the package is imported: its built-in datasets take their folder from here.
os.environ.setdefault("HRNET_D2_CACHE", tempfile.mkdtemp(prefix="hrnet_d2_tests_"))
