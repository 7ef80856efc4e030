"""How preparing runs: stages of tasks that any process may do, in any order, again after a kill."""
