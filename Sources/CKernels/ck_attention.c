#include "ck_attention.h"
