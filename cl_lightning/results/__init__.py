"""What a finished run says: tables, comparisons, new scores. No torch but for evaluating again."""
