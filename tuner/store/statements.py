"""Statements: the longer ones of the database."""

from __future__ import annotations

READ_TRIALS = """SELECT trials.*, variants.template, variants.name AS variant, variants.config,
    variants.pack FROM trials JOIN variants ON variants.id = trials.variant_id"""

READ_WORKLOADS = """SELECT problem_id, problems.name AS problem_name, problems.data AS problem,
    target_id, targets.arch, targets.name AS target_name, targets.data AS target,
    tokens, load, COUNT(*) AS trials
    FROM trials JOIN problems ON problems.id = problem_id JOIN targets ON targets.id = target_id
    GROUP BY problem_id, target_id, tokens, load
    ORDER BY problem_name, problem_id, arch, target_id, load, tokens"""

READ_STAGE_TIMES = """SELECT problem_id, problems.data AS problem, session, tokens, compile_ms,
    verify_ms, benchmark_ms FROM trials JOIN problems ON problems.id = problem_id
    JOIN targets ON targets.id = target_id"""
