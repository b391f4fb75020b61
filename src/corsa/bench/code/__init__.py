"""The code domain: updates of libraries, tasks that need them, and programs that are run."""
