"""From text to translations: search, engines, the translator, evaluation."""
