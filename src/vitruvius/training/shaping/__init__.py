"""Architecture schedules: fields that shape no tensor change while a model trains (`train.shape`)."""
