"""What people look at: charts, tables and pages of runs, comparisons and sweeps."""
