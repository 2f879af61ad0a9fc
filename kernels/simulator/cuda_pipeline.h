// <cuda_pipeline.h> has no more than this here.
#pragma once

#include "cuda_pipeline_primitives.h"
