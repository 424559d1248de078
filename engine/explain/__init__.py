"""Why a step's result is not there: the difference between its record and the nearest earlier one."""
