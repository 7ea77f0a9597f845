#include "ck_recurrent.h"
