"""Run the whole project on one machine: PostgreSQL, Airflow's processes and the sandbox under one supervisor."""
