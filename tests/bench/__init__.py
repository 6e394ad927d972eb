"""The comparison's own tests: answers, statistics, tables; no clock."""
