"""The thin layer between Airflow and the rest: connections, the DAG pattern, retries, the transform."""
